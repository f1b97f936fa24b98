"""The answers of `pico` that are no names: dates, numbers, sums, measures, common words."""

from functools import cache
from typing import NamedTuple

from src.data.pico import words
from src.data.pico.dice import Dice


class Value(NamedTuple):
    """An answer.

    lead: the article or preposition that a sentence may put before it.
    year, number: the part that "In what year" and "How many metres" ask for, or "".
    day: "day" if all of it answers "On what day", else "".
    unit: of the number. rank: what comparisons compare.
    """

    text: str
    lead: str = ""
    year: str = ""
    day: str = ""
    number: str = ""
    unit: str = ""
    rank: float | None = None


def article(word: str) -> str:
    """"a" or "an", by the first letter."""
    return "an" if word[0] in "aeiou" else "a"


@cache
def _listed(answer_type: str) -> tuple[Value, ...]:
    name = {"room": "place_in_house"}.get(answer_type, answer_type)
    items = words.VALUES[name]
    if answer_type == "job":
        return tuple(Value(item.split(" ", 1)[1], item.split(" ", 1)[0]) for item in items)
    return tuple(Value(item, article(item)) for item in items)


def is_listed(answer_type: str) -> bool:
    """Whether answers of this type come from a fixed list of words."""
    return answer_type == "room" or answer_type in words.VALUES


class Values:
    """Draws the values of one paragraph, none of them twice: no two share a number or a year."""

    def __init__(self, dice: Dice, plain: bool) -> None:
        """plain: years and counts in figures alone."""
        self.dice, self.plain = dice, plain
        self._used: set[str] = set()

    def _take(self, *keys: str) -> bool:
        if not self._used.isdisjoint(keys):
            return False
        self._used.update(keys)
        return True

    def listed(self, answer_type: str) -> Value:
        """A word of the type's list."""
        options = _listed(answer_type)
        while not self._take((value := self.dice.pick(options)).text):
            pass
        return value

    def number(self, limits: str) -> int:
        """A whole number that the paragraph has not had; of wide limits, any length as often."""
        low, high = map(int, limits.split("-"))
        while True:
            if high > 100 * low:
                number = int(low * (high / low) ** self.dice.fraction())
            else:
                number = low + self.dice.below(high - low + 1)
            if self._take(str(number)):
                return number
            high += 1  # a short range may be used up

    def _figures(self, number: int) -> str:
        """With commas or without."""
        return f"{number:,}" if self.dice.chance(0.6) else str(number)

    def count(self, limits: str) -> Value:
        """How many, as digits or as a word."""
        number = self.number(limits)
        text = self._figures(number)
        if number <= 12 and not self.plain and self.dice.chance(0.4):
            text = words.NUMBER_WORDS[number - 2]
        return Value(text, rank=number)

    def measure(self, limits: str, units: tuple[str, ...]) -> Value:
        """In the first unit, two times in three, or the second. Different units compare not."""
        number = self.number(limits)
        other = self.dice.chance(1 / 3)
        figures = self._figures(number)
        text = f"{figures} {units[other]}"
        rank = None if other else float(number)
        return Value(text, number=figures, unit=units[other], rank=rank)

    def money(self, limits: str) -> Value:
        """An amount of money."""
        number = self.number(limits)
        figures = self._figures(number)
        if self.dice.chance(0.4):  # sums of one currency can be compared
            return Value(self.dice.pick((f"${figures}", f"{figures} dollars")), rank=number)
        form = self.dice.pick(("{} pounds", "{} euros", "{} crowns", "{} coins", "£{}", "€{}"))
        return Value(form.format(figures))

    def clock(self) -> Value:
        """A time of day."""
        hour = 1 + self.dice.below(12)
        word = ("one", *words.NUMBER_WORDS)[hour - 1]
        form = self.dice.below(4)
        text = (
            f"{hour} o'clock",
            f"half past {word}",
            f"{hour}:{5 + 5 * self.dice.below(11):02d}",
            f"a quarter past {word}",
        )[form]
        return Value(text, "at") if self._take(text) else self.clock()

    def weekday(self) -> Value:
        """A day of the week."""
        day = self.dice.pick(words.WEEKDAYS)
        return Value(day, "on") if self._take(day) else self.weekday()

    def when(self, limits: str) -> Value:
        """A year, a day of a year, a month or a season of a year, a day without a year."""
        low, high = map(int, limits.split("-"))
        number = low + self.dice.below(high - low + 1)
        day = 1 + self.dice.below(28)
        month = self.dice.below(12)
        year, name = str(number), words.MONTHS[month]
        at = number + (month + day / 31) / 12
        form = 0 if self.plain or self.dice.chance(0.45) else 1 + self.dice.below(6)
        dated = Value("", "on", year, "day", rank=at)
        value = (
            Value(year, "in", year, rank=number),
            dated._replace(text=f"{day} {name} {year}"),
            dated._replace(text=f"{name} {day}, {year}"),
            Value(f"{name} {year}", "in", year, rank=number),
            Value(f"the {self.dice.pick(words.SEASONS)} of {year}", "in", year, rank=number),
            Value(f"{day} {name}", "on", day="day"),
            Value(f"{name} {day}", "on", day="day"),
        )[form]
        return value if self._take(year, f"{day} {name}") else self.when(limits)
