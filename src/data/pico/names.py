"""Names of `pico`: everyday ones of many cultures beside words spelled freely.

Every word of a name belongs to one split by its hash, an everyday word as much as an invented one:
no name of a validation article ever occurs in a training article. Exempt are the particles ("de",
"St", "New") and the nouns of words.py ("House", "United"), which say what kind of name it is.
"""

import re
import zlib
from functools import cache
from typing import NamedTuple

from src.data.pico import facts, words
from src.data.pico.dice import Dice

# One word in this many belongs to validation.
_BUCKETS = 8


def is_validation_name(word: str) -> bool:
    """Whether a word of a name belongs to the validation split (a hash that never changes)."""
    return zlib.crc32(word.encode()) % _BUCKETS == 0


EVERYDAY = {
    "woman": """
        Anna Ada Alice Amelia Amina Amira Ana Anita Astrid Aisha Ayesha
        Beatrice Bella Birgit Bridget Camille Carla Carmen Caroline Cecilia Chiara Chloe
        Clara Claire Daniela Daria Deborah Diana Dolores Doris Edith Elena Eleanor Eliza
        Elsa Emily Emma Esther Eva Fatima Fiona Florence Freya Frida Gabriela Gemma Georgia
        Gloria Grace Greta Gudrun Hana Hannah Harriet Heidi Helen Hilda Hélène Ida Ines Inés
        Ingrid Irene Iris Isabel Isla Ivana Jane Jasmine Joan Judith Julia Kamala Karin
        Katya Keiko Kiran Lakshmi Larissa Laura Layla Leila Lena Lily Ling Linda Lucia Lucy
        Lydia Mabel Magda Margaret Maria María Marta Martha Matilda Maya Mia Mildred Mina
        Mira Molly Monica Nadia Naomi Natasha Nina Noor Olga Olivia Paloma Paula Petra
        Phoebe Pilar Priya Rachel Rania Rebecca Renée Rita Rosa Rose Ruth Sakura Salma
        Sandra Sara Sarah Selma Shirin Signe Siobhan Sofia Sonia Sophie Susan Svetlana
        Sylvia Tamar Tanya Teresa Thea Ursula Valentina Vera Victoria Violet Wanjiru Wilma
        Xin Yara Yasmin Yuki Yvonne Zahra Zainab Zoë Zofia Zuzana
        """,
    "man": """
        Aaron Abdul Adam Ahmed Akira Alan Albert Alejandro Alexander Ali
        Alfred Andrei Andrew Antonio Anton Arjun Arthur Axel Bashir Bernard Bjørn Boris
        Brian Bruno Carlos Charles Chidi Christopher Claude Colin Cyril Daniel David Deepak
        Dennis Diego Dmitri Donald Edgar Edward Elias Emil Emeka Enzo Ernest Farid Felix
        Fernando Finn François Frank Frederick Fritz Gabriel George Giovanni Gregory Gustav
        Hamid Hans Harold Harry Hassan Hector Henrik Henry Hiroshi Hugo Ian Ibrahim Igor
        Isaac Ismail Jack Jacob Jakob Jamal James Jan Javier Jens Jerome João John Jonas
        José Joseph Juan Kareem Karl Kenji Kevin Klaus Kofi Kwame Lars Leo Leon Liam Luca
        Luis Magnus Malik Marco Mario Martin Matteo Max Michael Miguel Mikhail Mohammed
        Moses Nathan Neil Nikolai Nils Noah Oliver Omar Oscar Otto Pablo Patrick Paul Pavel
        Pedro Peter Philip Pierre Rahul Ralph Ravi Raymond Richard Robert Roman Rupert Samir
        Samuel Sanjay Sean Sergei Simon Stefan Stephen Sven Takashi Tariq Theodore Thomas
        Tobias Tomás Tom Umar Vasily Victor Viktor Vikram Walter Wei William Xavier Yannick
        Yusuf Zoltán
        """,
    "surname": """
        Abbott Abe Acosta Adeyemi Ahlberg Allen Almeida
        Andersen Andrade Archer Bailey Baker Banerjee Barnes Becker Bell Bennett Berg
        Bianchi Bishop Björk Blanco Bogdanov Bondarenko Bose Boyle Braun Brennan Brooks
        Brown Burke Burton Byrne Campbell Cardoso Castillo Chang Chapman Chaudhry Chen Choi
        Clarke Cohen Collins Cooper Costa Cruz Curtis Dalton Das Davies Dawson Delgado Desai
        Diallo Diaz Dixon Dogan Dubois Duran Edwards Egger Eklund Elliott Engel Eriksson
        Esposito Evans Farrell Fernandes Ferrari Finch Fischer Fisher Fletcher Flores Foster
        Fournier Fraser Fujita Fuller García Gallo Garcia Gibson Gill Goldberg Gomez
        González Gordon Graham Grant Gray Green Greene Griffin Gruber Gupta Haddad Hansen
        Harding Harris Hartmann Hayashi Hayes Hernandez Hoffmann Holm Horvat Howard Huang
        Hughes Hunt Hussain Ibarra Ito Iyer Jackson Jansen Jensen Johansson Johnson Jones
        Kaplan Kapoor Katz Kaya Keller Kelly Kennedy Khan Kim King Klein Kowalski Koch
        Kovács Kozlov Kumar Lambert Larsen Lawson Lee Lefèvre Lehmann Leroy Levy Lewis
        Lindgren Lombardi Lopez Maas Maier Malik Marino Marsh Martinez Mason Mbeki Medina
        Mehta Mendoza Meyer Miller Mitchell Molina Moore Morales Moretti Morris Mueller
        Müller Murphy Murray Nakamura Nair Nelson Neumann Newton Nguyen Nielsen Novak
        Novotný Nunes Nwosu Okafor Okonkwo Olsen Ortega Osei Owens Özdemir Palmer
        Papadopoulos Park Parker Patel Pereira Perkins Peters Phillips Popescu Popov Porter
        Powell Price Quinn Rahman Ramírez Ramos Rao Reed Reid Reyes Ricci Rivera Roberts
        Robinson Romano Rossi Roux Russo Ryan Sanchez Santos Sato Schmidt Schneider Schulz
        Sharma Shaw Silva Simpson Singh Smith Sokolov Sørensen Stewart Stone Suzuki Svensson
        Takahashi Tan Tanaka Taylor Thompson Toth Tran Turner Underwood Usman Vargas Vasquez
        Virtanen Vogel Wagner Walker Wallace Walsh Wang Ward Watanabe Watson Weber Weiss
        Wells White Wilson Wolf Wong Wood Wright Wu Yamamoto Yang Yilmaz Young Zhang Zhou
        Ziegler Zhu
        """,
    "town": """
        Aberdeen Accra Adelaide Agra Ajaccio Aleppo Algiers Almaty Amman
        Amsterdam Ankara Antwerp Arequipa Århus Asmara Athens Auckland Avignon Baghdad Baku
        Bamako Bangkok Barcelona Basel Bath Beirut Belfast Belgrade Berlin Bern Bilbao
        Birmingham Bogotá Bologna Bombay Bordeaux Boston Bratislava Bremen Brisbane Bristol
        Bruges Brussels Bucharest Budapest Cairo Calais Calgary Cambridge Canberra Caracas
        Cardiff Casablanca Chester Chicago Cleveland Coimbra Cologne Copenhagen Córdoba Cork
        Cusco Dakar Dallas Damascus Delhi Denver Derby Detroit Dhaka Dijon Dortmund Dover
        Dresden Dublin Dundee Durban Durham Edinburgh Exeter Florence Frankfurt Gdańsk
        Geneva Genoa Ghent Glasgow Gothenburg Granada Graz Grenoble Hamburg Hanoi Harare
        Havana Helsinki Hull Innsbruck Isfahan Istanbul Jaipur Jakarta Kabul Kampala Karachi
        Kathmandu Kazan Kiel Kigali Kingston Kobe Kraków Kyiv Kyoto Lagos Lahore Lausanne
        Leeds Leicester Leipzig Lille Lima Limerick Lincoln Linz Lisbon Liverpool Ljubljana
        London Lucerne Lusaka Lviv Lyon Madrid Málaga Malmö Manchester Manila Maputo
        Marrakesh Marseille Melbourne Memphis Milan Minsk Mombasa Monaco Montevideo Montreal
        Moscow Mumbai Munich Nairobi Nantes Naples Nara Norwich Nottingham Odessa Oporto
        Osaka Ottawa Oxford Palermo Paris Parma Perth Pisa Plymouth Portland Porto Prague
        Pretoria Quebec Quito Rabat Reykjavik Riga Rome Rotterdam Rouen Salamanca Salzburg
        Samarkand Santiago Sapporo Sarajevo Seattle Seoul Seville Shanghai Sheffield Siena
        Singapore Skopje Sofia Split Stockholm Strasbourg Stuttgart Sydney Tallinn Tampere
        Tashkent Tbilisi Tehran Tokyo Toledo Toronto Toulouse Trieste Tripoli Trondheim
        Tunis Turin Uppsala Utrecht Valencia Valletta Vancouver Venice Verona Vienna Vilnius
        Warsaw Wellington Winchester Winnipeg Worcester York Zagreb Zanzibar Zaragoza Zürich
        """,
    "country": """
        Albania Algeria Angola Argentina Armenia Australia Austria Bangladesh Belgium
        Bolivia Botswana Brazil Bulgaria Cambodia Cameroon Canada Chad Chile China Colombia
        Croatia Cuba Cyprus Denmark Ecuador Egypt England Estonia Ethiopia Fiji Finland
        France Gabon Germany Ghana Greece Guatemala Haiti Honduras Hungary Iceland India
        Indonesia Iran Iraq Ireland Israel Italy Jamaica Japan Jordan Kenya Kuwait Laos
        Latvia Lebanon Liberia Libya Lithuania Luxembourg Madagascar Malaysia Mali Malta
        Mexico Moldova Mongolia Morocco Mozambique Namibia Nepal Nicaragua Nigeria Norway
        Oman Pakistan Panama Paraguay Peru Poland Portugal Qatar Romania Russia Rwanda
        Scotland Senegal Serbia Slovakia Slovenia Somalia Spain Sudan Sweden Switzerland
        Syria Tanzania Thailand Tunisia Turkey Uganda Ukraine Uruguay Venezuela Vietnam
        Wales Yemen Zambia Zimbabwe
        """,
    "language": """
        Afrikaans Albanian Amharic Arabic Armenian Basque Bengali Breton Bulgarian Burmese
        Catalan Cantonese Cornish Croatian Czech Danish Dutch English Estonian Finnish
        French Gaelic Georgian German Greek Gujarati Hausa Hawaiian Hebrew Hindi Hungarian
        Icelandic Igbo Irish Italian Japanese Khmer Korean Kurdish Latin Latvian Lithuanian
        Malay Maltese Mandarin Maori Mongolian Nepali Norwegian Persian Polish Portuguese
        Punjabi Quechua Romanian Russian Serbian Slovak Somali Spanish Swahili Swedish
        Tagalog Tamil Thai Tibetan Turkish Ukrainian Urdu Vietnamese Welsh Xhosa Yiddish
        Yoruba Zulu
        """,
    # What comes before the noun of a title, a building, a fair.
    "title": """
        Summer Winter Amber Silver Golden Iron Copper Marble Paper
        Velvet Ivory Crystal Wooden Stone Broken Burning Hidden Lost Secret Silent Sleeping
        Wandering Forgotten Frozen Painted Crooked Grand Royal Ancient Quiet Wild Lonely
        Distant Merry Bitter Blind Bright Dark Pale Blue Green Red White Black Yellow
        Scarlet Crimson Purple Ocean Harbour Mountain Valley Forest Garden Meadow
        Desert Northern Southern Eastern Western Morning Evening Midnight Moonlight
        Starlight Shadow Thunder Rain Snow Storm Cloud Fire Water Salt Sugar Honey Wheat
        Barley Cotton Wool Silk Fish Flower Apple Cherry Lemon Orange Olive Rose Lily Clover
        Willow Maple Cedar Oak Birch Pine Laurel Eagle Falcon Raven Swan Sparrow Lion Tiger
        Wolf Bear Fox Stag Horse Dragon Phoenix Prince Princess Bishop Abbey Shepherd Sailor
        Soldier Merchant Beggar Jester Pilgrim Hunter Weaver Fisher Potter
        """,
    "pet": """
        Rex Milo Bello Biscuit Bonnie Buster Buttons Charlie Cleo Coco Cookie Daisy Dasher
        Duke Fido Fluffy Ginger Gizmo Goldie Gus Happy Hazel Jasper Kiki Lucky Lulu Luna
        Marmalade Misty Mitzi Mocha Molly Muffin Nugget Oreo Patch Peanut Pepper Pickles Pip
        Pippin Poppy Puck Pumpkin Rocky Rover Ruby Rusty Sable Scout Shadow Smoky Snowy
        Socks Sparky Spot Sunny Tabby Tango Teddy Thunder Tiger Tilly Toffee Topsy Trixie
        Waffles Whiskers Willow Winnie Ziggy Zorro
        """,
}
# Everyday towns of two or three words; each word but a particle belongs to the town's split.
TOWNS_OF_MANY_WORDS = (
    "New York", "New Delhi", "New Orleans", "Cape Town", "Addis Ababa", "Buenos Aires", "San Diego",
    "San Francisco", "Los Angeles", "Las Vegas", "Rio de Janeiro", "Le Havre", "La Paz", "Tel Aviv",
    "Kuala Lumpur", "Dar es Salaam", "Hong Kong", "Santa Cruz", "St Gallen", "St Ives",
    "Port Elizabeth", "Port Moresby", "San Salvador", "Puerto Montt", "Salt Lake City",
    "Phnom Penh", "Ulan Bator", "Novi Sad", "Baden-Baden", "Aix-en-Provence", "Newcastle upon Tyne",
    "Stratford-upon-Avon", "Stoke-on-Trent", "Villefranche-sur-Mer", "Nizhny Novgorod",
    "King's Lynn", "Bury St Edmunds", "Sioux Falls", "Baton Rouge", "St Petersburg",
)
# Parts of names that both splits have, besides the nouns of words.py.
PARTICLES = frozenset(
    words.split_words(
        """
        New North South East West Port St San Santa Le La Los Las Cape Puerto Mount Lake River Falls
        Bay Island on upon en sur es Rio Dar de del da la van der von bin The the and & of A
        Captain Doctor Professor Battle Letters Return to Songs for Night in
        """
    )
)

# Syllables of invented words; what stands twice is drawn twice as often. Few inner ones are closed.
_ONSETS = words.split_words(
    """
    b b bl br c ch cl cr d d dr f fl fr g g gl gr h h j k k kl kr l l m m m n n p p pl pr qu r r
    s s sc sh sk sl sm sn sp st str sw t t th tr v v vl w wh y z zh
    """
) + ("",) * 4
_VOWELS = words.split_words(
    "a a a a a e e e e e i i i i o o o o u u u ai au ay ea ee ei ia ie io oa oo ou ue y"
)
_ACCENTED = words.split_words("á é í ó ú ä ö ü å ø ê ô ã")
_INNER_CODAS = words.split_words("n r l s m nd rt ck ng") + ("",) * 16
_LAST_CODAS = words.split_words(
    """
    b ck d d f g k l l ll lt m m n n n nd ng nk nt p r r rd rk rn rt s s sh sk ss st t t th x z
    """
) + ("",) * 12
# Endings that make an invented word a town, a country, a language.
_ENDINGS = {
    "town": words.split_words(
        "berg by dale field ford gate ham mouth port ton ville wick wood stadt grad pur"
    ),
    "country": words.split_words("land ia stan istan onia any"),
    "language": words.split_words("ish ese ian ic i"),
}
_PREFIXES = words.split_words("Mc Mac O' De Di Le Van Fitz D'")
# Who spells freely spells these too.
_RUDE = re.compile(
    "anus|arse|cock|cum|cunt|dick|fag|fuc|fuk|kike|naz|nig|piss|porn|rap|shi|slut|tit"
)
# The chance that a vowel has an accent.
_ACCENTS = 0.02


def name_words(name: str) -> list[str]:
    """The words of a name that belong to a split: all but particles and nouns.

    >>> name_words("The Old-Vorane House")
    ['Old', 'Vorane']
    """
    parts = name.replace("-", " ").split()
    return [part for part in parts if part not in SHARED]


SHARED = PARTICLES.union(*words.NOUNS.values(), words.LOOKS, words.PETS)
# No invented name is one of these: a name never looks like an ordinary word of the data.
_ORDINARY = (
    facts.WORDS
    | {word.lower() for word in (*SHARED, *words.MONTHS, *words.WEEKDAYS, *words.NUMBER_WORDS)}
    | {word for items in words.VALUES.values() for item in items for word in item.split()}
)


@cache
def _everyday(split: str, kind: str, longest: int) -> tuple[str, ...]:
    """The everyday names of a kind, up to so many letters, all of whose words are the split's."""
    wanted = split == "validation"
    names = TOWNS_OF_MANY_WORDS if kind == "towns" else EVERYDAY[kind].split()
    return tuple(
        name
        for name in names
        if all(is_validation_name(word) == wanted for word in name_words(name))
        and (kind == "towns" or len(name) <= longest)
    )


class Name(NamedTuple):
    """A name and the two parts of it that another name can share or a short mention can use."""

    text: str
    head: str = ""  # a given name; what comes before the noun
    tail: str = ""  # a surname; the noun


class Names:
    """Draws the names of one paragraph. No word stands in two of them unless asked for."""

    def __init__(self, dice: Dice, split: str, free: float, longest: int, apart: bool) -> None:
        """free: the chance that a name has an unusual form; longest: letters of a word;
        apart: no two words of the paragraph begin with the same three letters."""
        self.dice, self.split, self.free = dice, split, free
        self.longest, self.apart = longest, apart
        self._validation = split == "validation"
        self._used: set[str] = set()
        self._titles: set[str] = set()

    def _everyday(self, kind: str) -> str:
        return self.dice.pick(_everyday(self.split, kind, self.longest))

    def _take(self, name: str) -> bool:
        """Whether none of its words was used before; then all of them are."""
        parts = [part.lower() for part in name_words(name)]
        keys = [part[:3] for part in parts] if self.apart else parts
        if not self._used.isdisjoint(keys):
            return False
        self._used.update(keys)
        return True

    def _syllable(self, last: bool) -> str:
        pick = self.dice.pick
        vowel = pick(_ACCENTED) if self.dice.chance(_ACCENTS) else pick(_VOWELS)
        return pick(_ONSETS) + vowel + pick(_LAST_CODAS if last else _INNER_CODAS)

    def _spelled(self, ending: str = "") -> str:
        """A word of one to three free syllables, 3 letters up to the longest, of this split."""
        longest = self.longest + len(ending)
        while True:
            word = self._syllable(last=True) + ending
            while self.dice.chance(0.5) and len(word) < longest - 1:
                word = self._syllable(last=False) + word
            if not 3 <= len(word) <= longest or word in _ORDINARY or _RUDE.search(word):
                continue
            word = word.capitalize()
            if is_validation_name(word) == self._validation:
                return word

    def word(self, kind: str, everyday: float = 0.5) -> str:
        """One word: an everyday name of the kind, or an invented one."""
        while True:
            if self.dice.chance(everyday):
                word = self._everyday(kind)
            else:
                endings = _ENDINGS.get(kind)
                bare = not endings or (kind == "town" and self.dice.chance(0.6))
                word = self._spelled("" if bare else self.dice.pick(endings))
            if self._take(word):
                return word

    def _surname(self) -> str:
        if not self.dice.chance(self.free):
            return self.word("surname")
        form = self.dice.below(4)
        if form == 0:
            return f"{self.word('surname')}-{self.word('surname')}"
        if form == 1:
            particle = self.dice.pick(("van", "van der", "von", "de", "de la", "da", "del", "bin"))
            return f"{particle} {self.word('surname')}"
        while True:  # "McAdam" belongs to the split as well as "Adam"
            word = self._spelled() if form == 2 else self._everyday("surname")
            word = self.dice.pick(_PREFIXES) + word
            if is_validation_name(word) == self._validation and self._take(word):
                return word

    def person(self, gender: str, like: Name | None = None) -> Name:
        """gender: woman or man. like: somebody with whom to share the surname or the given name."""
        if like and like.head and like.tail:
            if self.dice.chance(0.6):
                given, surname = self.word(gender), like.tail
            else:
                given, surname = like.head, self._surname()
        else:
            given, surname = self.word(gender), self._surname()
            if self.dice.chance(self.free):
                form = self.dice.below(5)
                if form == 0:
                    return Name(given)
                if form == 1:
                    rank = self.dice.pick(("Captain", "Doctor", "Professor"))
                    return Name(f"{rank} {surname}")
                given += self.dice.pick("- ") + self.word(gender)
        return Name(f"{given} {surname}", given, surname)

    def town(self) -> Name:
        """A town: one word, or one with a suffix or a second word."""
        if not self.dice.chance(self.free):
            return Name(self.word("town"))
        form = self.dice.below(5)
        if form == 0:
            while not self._take(name := self._everyday("towns")):
                pass
            return Name(name)
        word = self.word("town", 0.2)
        if form == 1:
            return Name(f"{word}-{self.dice.pick(('on', 'upon', 'sur', 'en'))}-{self.word('town')}")
        if form == 2:
            return Name(f"{word} {self.dice.pick(('Falls', 'Bay', 'Island', 'City'))}")
        before = self.dice.pick(("New", "North", "South", "West", "Port", "San", "St"))
        return Name(f"{before} {word}")

    def _with_noun(self, kind: str, article: str, like: Name | None) -> Name:
        """"the Glass House", with the noun or the word before it of another."""
        noun = self.dice.pick(words.NOUNS[kind])
        share = like is not None and like.head and like.tail
        if share and self.dice.chance(0.6):
            head, noun = self.word("title", 0.6), like.tail
        elif share:
            head = like.head
            while f"{head} {noun}" in self._titles:
                noun = self.dice.pick(words.NOUNS[kind])
        else:
            head = self.word("title", 0.6)
            if self.dice.chance(self.free):
                head += " " + self.word("title", 0.6)
        self._titles.add(f"{head} {noun}")
        return Name(f"{article}{head} {noun}", head, noun)

    def work(self, like: Name | None = None) -> Name:
        """A book, song, play or picture, with its noun."""
        if like or not self.dice.chance(self.free):
            return self._with_noun("work", "The ", like)
        form = self.dice.below(5)
        if form == 0:
            return Name(f"Letters to {self.word('woman')}")
        if form == 1:
            return Name(f"Return to {self.word('town')}")
        if form == 2:
            return Name(f"Songs for {self.word('man')} and {self.word('woman')}")
        if form == 3:
            return Name(f"The {self.dice.pick(words.NOUNS['work'])} of {self.word('town')}")
        return Name(f"A Night in {self.word('town')}")

    def building(self, like: Name | None = None) -> Name:
        """A building, with its noun."""
        if like or not self.dice.chance(self.free):
            return self._with_noun("building", "the ", like)
        noun = self.dice.pick(words.NOUNS["building"])
        if self.dice.chance(0.3):
            return Name(f"St {self.word(self.dice.pick(('woman', 'man')))}'s {noun}", "", noun)
        head = self.word(self.dice.pick(("surname", "town")))
        self._titles.add(f"{head} {noun}")
        return Name(f"{head} {noun}", head, noun)

    def team(self, like: Name | None = None) -> Name:
        """A sports team."""
        if like:
            return Name(f"{self.word('town')} {like.tail}", "", like.tail)
        noun = self.dice.pick(words.NOUNS["team"])
        return Name(f"{self.word('town')} {noun}", "", noun)

    def company(self, like: Name | None = None) -> Name:
        """A company."""
        if not like and self.dice.chance(self.free):
            link = self.dice.pick(("and", "&"))
            return Name(f"{self.word('surname')} {link} {self.word('surname')}")
        noun = like.tail if like and like.tail else self.dice.pick(words.NOUNS["company"])
        return Name(f"{self.word('surname')} {noun}", "", noun)

    def event(self, like: Name | None = None) -> Name:
        """An event such as a fair or a race."""
        if not like and self.dice.chance(self.free):
            return Name(f"the Battle of {self.town().text}")
        return self._with_noun("event", "the ", like)

    def pet(self) -> Name:
        """An animal with a name of its own."""
        pet = self.word("pet", 0.7)
        if self.dice.chance(self.free):
            return Name(f"the {self.dice.pick(words.PETS)} {pet}")
        return Name(pet)

    def landmark(self) -> Name:
        """A mountain, river, lake or the like."""
        word = self.word("town", 0.15)
        form = self.dice.pick(("Mount {}", "Lake {}", "the River {}", "{} Island", "{} Falls"))
        return Name(form.format(word))

    def thing(self, taken: set[str]) -> Name:
        """"the brass clock": a description in common words, unlike every other of the paragraph."""
        while (noun := self.dice.pick(words.NOUNS["thing"])) in taken:
            pass
        taken.add(noun)
        return Name(f"the {self.dice.pick(words.LOOKS)} {noun}", "", noun)
