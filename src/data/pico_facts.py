"""What the embedded data set is made of: syllables, values and the wording of every fact.

`FACTS[kind][type]` lists the facts of such an entity whose answer is of that type, years in the
order of time, and always at least two. In a statement `{E}` is the entity and `{A}` the answer. The
first `PLAIN` statements and questions of a fact serve difficulties 1 to 3, all of them 4 and 5. A
plain statement says what it tells before it gives the answer: who reads left to right and copies
the answer by what stood before it would otherwise have to look back from "474" to "pages".
"""

from typing import NamedTuple

PLAIN = 2


class Fact(NamedTuple):
    """One thing that is told of an entity. `noun` ("the friend of") names a person by the fact."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    noun: str = ""


def _list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Three letters each: a name's first three letters are its initial syllable. Chosen out of 600 so
# that under the shipped tokenizer each is one token before every ending: SQuAD's "or", "nd", "eld"
# would otherwise cut "Vorko" as " V", "ork", "o", and a name's form would hang on its letters.
INITIALS = _list(
    "Bam Bap Biz Cab Caz Cov Cuz Dab Dap Dav Dez Div Diz Dov Doz Duz Fab Faz Fub Fup Gam Gaz "
    "Gem Gim Giv Giz Gop Gup Hav Hez Hiv Hiz Hup Huz Jav Jop Juz Kal Kez Koz Lav Laz Lov Mav "
    "Miv Mov Mup Muz Nem Nim Nov Nup Nuz Pab Pav Piv Ral Rav Raz Riz Ruz Sal Sav Siz Sup Tal "
    "Taz Tem Tiv Tum Tuz Vam Vap Vez Vop Voz Vub Wav Wop Wub Zav Zez Zim Zoz"
)
GIVEN_ENDINGS = _list("da do ga go ka ko la lo ma mo na no ra ro sa so ta to va vo za zo")
SURNAME_ENDINGS = _list(
    "bek den der din gan gen ker kin man men nan nen ner rin san sen ser sin tan ten "
    "tis van ven win"
)
TOWN_MIDDLES = ("", "en", "er", "in", "o", "es")
TOWN_ENDINGS = _list("berg by dale field ford gate ham mouth port ton ville wick wood")
TITLE_ENDINGS = _list("ane ar ell ese ian ine ish ock ora une")

NOUNS = {
    "work": _list("Song Book Play Poem Opera Dance"),
    "event": _list("Fair War Race Feast Flood March"),
    "organisation": _list("Guild Club Bank School Society Company"),
    "place": _list("Castle Bridge Tower Palace House Mill"),
}
TRADES = _list(
    "baker painter miller doctor sailor singer farmer lawyer tailor soldier hunter writer"
)
MONTHS = _list(
    "January February March April May June July August September October November December"
)

FACTS: dict[str, dict[str, tuple[Fact, ...]]] = {
    "person": {
        "town": (
            Fact(("{E} was born in {A}.", "{E} came from {A}.", "{A} was the birthplace of {E}."),
                 ("Where was {E} born?", "In what town was {E} born?", "Where did {E} come from?")),
            Fact(("{E} lived in {A}.", "{E} had a house in {A}.", "{A} was the home of {E}."),
                 ("Where did {E} live?", "In what town did {E} live?",
                  "What was the home of {E}?")),
            Fact(("{E} died in {A}.", "{E} was buried in {A}.", "Death came to {E} in {A}."),
                 ("Where did {E} die?", "In what town did {E} die?", "Where was {E} buried?")),
        ),
        "year": (
            Fact(("{E} was born in {A}.", "{E} was born in the year {A}.",
                  "In {A} {E} was born."),
                 ("When was {E} born?", "In what year was {E} born?")),
            Fact(("{E} married in {A}.", "{E} married in the year {A}.", "In {A} {E} married."),
                 ("When did {E} marry?", "In what year did {E} marry?")),
            Fact(("{E} died in {A}.", "{E} died in the year {A}.", "In {A} {E} died."),
                 ("When did {E} die?", "In what year did {E} die?")),
        ),
        "day": (
            Fact(("{E} was born on {A}.", "{E} was born on the day of {A}."),
                 ("When was {E} born?", "On what day was {E} born?")),
            Fact(("{E} died on {A}.", "{E} died on the day of {A}."),
                 ("When did {E} die?", "On what day did {E} die?")),
        ),
        "person": (
            Fact(("{E} was a friend of {A}.", "{E} had a friend named {A}.",
                  "{A} was a friend of {E}."),
                 ("Who was a friend of {E}?", "What friend did {E} have?"), "the friend of"),
            Fact(("{E} was taught by {A}.", "{E} had a teacher named {A}.", "{A} taught {E}."),
                 ("Who taught {E}?", "What teacher did {E} have?"), "the teacher of"),
            Fact(("{E} was married to {A}.", "{E} married {A}.", "{A} was married to {E}."),
                 ("Who was married to {E}?", "Who married {E}?"), "the spouse of"),
        ),
        "number": (
            Fact(("{E} had a fleet of {A} ships.", "The fleet of {E} was {A} ships.",
                  "There were {A} ships that {E} owned."),
                 ("How many ships did {E} have?", "How many ships were in the fleet of {E}?")),
            Fact(("{E} had a herd of {A} horses.", "The herd of {E} was {A} horses.",
                  "With {A} horses {E} was rich."),
                 ("How many horses did {E} have?", "How many horses were in the herd of {E}?")),
        ),
        "trade": (
            Fact(("{E} was first a {A}.", "{E} started as a {A}.", "At first {E} was a {A}."),
                 ("What was {E} first?", "What did {E} start as?")),
            Fact(("{E} later became a {A}.", "{E} was later a {A}.", "In the end {E} was a {A}."),
                 ("What did {E} become later?", "What was {E} later?")),
        ),
        "work": (
            Fact(("{E} wrote {A}.", "{E} was the writer of {A}.", "{A} was written by {E}."),
                 ("What did {E} write?", "What was written by {E}?")),
            Fact(("{E} bought {A}.", "{E} was the buyer of {A}.", "{A} was bought by {E}."),
                 ("What did {E} buy?", "What was bought by {E}?")),
        ),
    },
    "work": {
        "town": (
            Fact(("{E} was written in {A}.", "{E} was made in {A}.", "In {A} {E} was written."),
                 ("Where was {E} written?", "In what town was {E} written?")),
            Fact(("{E} was first shown in {A}.", "{E} was shown in {A}.",
                  "{A} was first to see {E}."),
                 ("Where was {E} first shown?", "In what town was {E} first shown?")),
            Fact(("{E} is kept in {A}.", "{E} is now in {A}.", "{A} is now the home of {E}."),
                 ("Where is {E} kept?", "In what town is {E} kept?", "Where is {E} now?")),
        ),
        "year": (
            Fact(("{E} was written in {A}.", "{E} was written in the year {A}.",
                  "In {A} {E} was written."),
                 ("When was {E} written?", "In what year was {E} written?")),
            Fact(("{E} was first shown in {A}.", "{E} was shown in the year {A}.",
                  "In {A} {E} was first shown."),
                 ("When was {E} first shown?", "In what year was {E} first shown?")),
            Fact(("{E} was lost in {A}.", "{E} was lost in the year {A}.", "In {A} {E} was lost."),
                 ("When was {E} lost?", "In what year was {E} lost?")),
        ),
        "person": (
            Fact(("{E} was written by {A}.", "{E} was the work of {A}.", "{A} wrote {E}."),
                 ("Who wrote {E}?", "By whom was {E} written?"), "the writer of"),
            Fact(("{E} was bought by {A}.", "{E} was sold to {A}.", "{A} bought {E}."),
                 ("Who bought {E}?", "By whom was {E} bought?"), "the buyer of"),
        ),
        "number": (
            Fact(("{E} had a length of {A} pages.", "The length of {E} was {A} pages.",
                  "There were {A} pages in {E}."),
                 ("How many pages did {E} have?", "How many pages were in {E}?")),
            Fact(("{E} had a price of {A} coins.", "The price of {E} was {A} coins.",
                  "For {A} coins one could buy {E}."),
                 ("How many coins did {E} cost?", "How many coins were paid for {E}?")),
        ),
    },
    "event": {
        "town": (
            Fact(("{E} began in {A}.", "{E} started in {A}.", "In {A} {E} began."),
                 ("Where did {E} begin?", "In what town did {E} begin?", "Where did {E} start?")),
            Fact(("{E} ended in {A}.", "{E} came to an end in {A}.", "In {A} {E} ended."),
                 ("Where did {E} end?", "In what town did {E} end?")),
        ),
        "year": (
            Fact(("{E} began in {A}.", "{E} started in the year {A}.", "In {A} {E} began."),
                 ("When did {E} begin?", "In what year did {E} begin?", "When did {E} start?")),
            Fact(("{E} ended in {A}.", "{E} ended in the year {A}.", "In {A} {E} ended."),
                 ("When did {E} end?", "In what year did {E} end?")),
        ),
        "day": (
            Fact(("{E} began on {A}.", "{E} started on {A}.", "On {A} {E} began."),
                 ("When did {E} begin?", "On what day did {E} begin?", "When did {E} start?")),
            Fact(("{E} ended on {A}.", "{E} came to an end on {A}.", "On {A} {E} ended."),
                 ("When did {E} end?", "On what day did {E} end?")),
        ),
        "person": (
            Fact(("{E} was led by {A}.", "{E} had a leader named {A}.", "{A} led {E}."),
                 ("Who led {E}?", "By whom was {E} led?"), "the leader of"),
            Fact(("{E} was won by {A}.", "{E} had a winner named {A}.", "{A} won {E}."),
                 ("Who won {E}?", "By whom was {E} won?"), "the winner of"),
        ),
        "number": (
            Fact(("{E} had a crowd of {A} people.", "The crowd of {E} was {A} people.",
                  "There were {A} people at {E}."),
                 ("How many people saw {E}?", "How many people were in the crowd of {E}?")),
            Fact(("{E} had a length of {A} days.", "The length of {E} was {A} days.",
                  "For {A} days {E} went on."),
                 ("How many days did {E} last?", "How many days did {E} take?")),
        ),
    },
    "organisation": {
        "town": (
            Fact(("{E} was founded in {A}.", "{E} was started in {A}.", "In {A} {E} was founded."),
                 ("Where was {E} founded?", "In what town was {E} founded?")),
            Fact(("{E} moved to {A}.", "{E} later moved to {A}.", "{A} was the later home of {E}."),
                 ("Where did {E} move to?", "To what town did {E} move?")),
        ),
        "year": (
            Fact(("{E} was founded in {A}.", "{E} was founded in the year {A}.",
                  "In {A} {E} was founded."),
                 ("When was {E} founded?", "In what year was {E} founded?")),
            Fact(("{E} was closed in {A}.", "{E} was closed in the year {A}.",
                  "In {A} {E} was closed."),
                 ("When was {E} closed?", "In what year was {E} closed?")),
        ),
        "day": (
            Fact(("{E} was opened on {A}.", "{E} opened on {A}.", "On {A} {E} was opened."),
                 ("When was {E} opened?", "On what day was {E} opened?")),
            Fact(("{E} was closed on {A}.", "{E} closed on {A}.", "On {A} {E} was closed."),
                 ("When was {E} closed?", "On what day was {E} closed?")),
        ),
        "person": (
            Fact(("{E} was founded by {A}.", "{E} had a founder named {A}.", "{A} founded {E}."),
                 ("Who founded {E}?", "By whom was {E} founded?"), "the founder of"),
            Fact(("{E} was led by {A}.", "{E} had a leader named {A}.", "{A} led {E}."),
                 ("Who led {E}?", "By whom was {E} led?"), "the leader of"),
        ),
        "number": (
            Fact(("{E} had a staff of {A} people.", "The staff of {E} was {A} people.",
                  "There were {A} people in {E}."),
                 ("How many people did {E} have?", "How many people were in the staff of {E}?")),
            Fact(("{E} had a fleet of {A} ships.", "The fleet of {E} was {A} ships.",
                  "There were {A} ships that {E} owned."),
                 ("How many ships did {E} own?", "How many ships were in the fleet of {E}?")),
        ),
    },
    "place": {
        "town": (
            Fact(("{E} is near {A}.", "{E} stands near {A}.", "{A} is the town nearest to {E}."),
                 ("Where is {E} near?", "What town is {E} near?", "Near what town is {E}?")),
            Fact(("{E} is ruled from {A}.", "{E} belongs to {A}.", "{A} is the owner of {E}."),
                 ("Where is {E} ruled from?", "What town does {E} belong to?")),
        ),
        "year": (
            Fact(("{E} was built in {A}.", "{E} was built in the year {A}.",
                  "In {A} {E} was built."),
                 ("When was {E} built?", "In what year was {E} built?")),
            Fact(("{E} was burned in {A}.", "{E} was burned in the year {A}.",
                  "In {A} {E} was burned."),
                 ("When was {E} burned?", "In what year was {E} burned?")),
        ),
        "person": (
            Fact(("{E} was built by {A}.", "{E} had a builder named {A}.", "{A} built {E}."),
                 ("Who built {E}?", "By whom was {E} built?"), "the builder of"),
            Fact(("{E} was bought by {A}.", "{E} was sold to {A}.", "{A} bought {E}."),
                 ("Who bought {E}?", "By whom was {E} bought?"), "the buyer of"),
        ),
        "number": (
            Fact(("{E} had a crew of {A} people.", "The crew of {E} was {A} people.",
                  "There were {A} people at work in {E}."),
                 ("How many people did {E} have?", "How many people were in the crew of {E}?")),
            Fact(("{E} had a garden of {A} trees.", "The garden of {E} was {A} trees.",
                  "There were {A} trees around {E}."),
                 ("How many trees did {E} have?", "How many trees were in the garden of {E}?")),
        ),
    },
}

# Told at difficulty 5, of nobody who is asked about: person P, towns T and U, year Y, number N.
FILLERS = (
    "{P} once walked from {T} to {U}.",
    "In {Y} the rain in {T} fell for {N} days.",
    "{P} was seen in {T} in {Y}.",
    "The road from {T} to {U} was built by {P}.",
    "There were {N} people in {T} when {P} died.",
)
