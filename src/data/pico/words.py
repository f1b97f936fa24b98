"""The common words of `pico`: nouns inside names, and the values that are no names.

These words are shared by both splits. Names are not: see names.py. An item of a value list keeps
its article, so that "an umbrella" and "rice" both fit "bought {A}".
"""


def split_words(text: str) -> tuple[str, ...]:
    """A list of words that is written as one string."""
    return tuple(text.split())


def _items(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(","))


MONTHS = split_words(
    "January February March April May June July August September October November December"
)
SEASONS = split_words("spring summer autumn winter")
WEEKDAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMBER_WORDS = split_words("two three four five six seven eight nine ten eleven twelve")

# The last word of a name, by what it names.
NOUNS = {
    "work": split_words("Song Book Play Poem Opera Story Dance Letter Novel Ballad"),
    "building": split_words(
        "Castle Bridge Tower Palace House Mill Market Hall Theatre Library Church Hotel Museum "
        "Station Gate Inn"
    ),
    "company": split_words("Bank Motors Foods Brothers Press Mills Shipping Records Airways Works"),
    "team": split_words("United City Rovers Wanderers Athletic Rangers Town Harriers"),
    "event": split_words(
        "Fair Race Feast Festival March Cup Regatta Marathon Conference Concert Parade Wedding"
    ),
    "thing": split_words(
        "lamp clock table chair piano bicycle boat coat mirror carpet kettle cupboard wagon bell "
        "ladder suitcase telescope camera typewriter sword"
    ),
}
# How a thing without a name is described: "the brass clock".
LOOKS = split_words(
    "brass wooden old new heavy small tall round broken painted striped rusty copper stone white "
    "black red blue green yellow"
)
PETS = split_words("dog cat horse pony parrot goat donkey rabbit")

# The values of each type that are not spelled by rule. "a" before a job is left to the sentence.
VALUES = {
    "job": _items(
        """
        a nurse, a baker, a painter, a miller, a doctor, a sailor, a singer, a farmer, a
        lawyer, a tailor, a soldier, a teacher, a carpenter, a plumber, an engineer, a cook,
        a waiter, a driver, a pilot, a dentist, a gardener, a judge, a journalist, a
        librarian, a mechanic, a musician, a photographer, a police officer, a postman, a
        scientist, a shoemaker, a translator, a vet, a watchmaker, an architect, an actor,
        an artist, an accountant, an electrician, a bus driver, a tour guide, a train
        conductor, a fisherman, a hairdresser
        """
    ),
    "colour": _items(
        """
        red, blue, green, yellow, orange, purple, pink, brown, black, white, grey, gold,
        silver, dark blue, dark green, light blue, light grey, pale yellow, turquoise,
        cream, bright red, deep purple
        """
    ),
    "food": _items(
        """
        an apple, a pear, rice, bread and butter, fish soup, pancakes, a boiled egg, two
        eggs, noodles, dumplings, a cheese sandwich, apple pie, chocolate cake, lentils,
        grilled trout, roast chicken, potato salad, tomato soup, porridge, a banana, plums,
        cherries, fried fish, beef stew, mushroom pie, olives, a bowl of cereal, toast,
        pasta, onion soup, beans, carrots, a slice of ham, honey cake, yoghurt, couscous,
        lamb curry, sausages
        """
    ),
    "thing": _items(
        """
        an umbrella, a silver ring, a red scarf, an old map, a pocket knife, a pair of
        gloves, a gold watch, a guitar string, a leather bag, a tin whistle, a letter, a
        wooden box, a blue vase, a bunch of keys, a magnifying glass, a chess set, a woollen
        hat, a toy train, a compass, a lantern, a diary, a pearl necklace, a rope, a fishing
        rod, a torch, a tea set, a hammer, a pair of boots, a postcard, a brass button, a
        sewing machine, a straw basket, a photograph, a green bottle, a pillow, a bicycle
        pump
        """
    ),
    "animal": _items(
        """
        a dog, a cat, a horse, a parrot, a goat, a rabbit, a tortoise, a hamster, a snake, a
        monkey, an owl, a fox, a bear, a wolf, an eagle, a heron, a lizard, an elephant, a
        zebra, a lion, a pig, a donkey, a swan, a hedgehog, a squirrel, a goose, a camel, a
        white mouse, a barn owl, a sheep, an otter, a frog
        """
    ),
    "instrument": _items(
        """
        the piano, the violin, the flute, the cello, the drum, the guitar, the harp, the
        trumpet, the clarinet, the organ, the accordion, the oboe, the lute, the banjo, the
        trombone, the recorder, the double bass, the tuba, the mandolin, the saxophone
        """
    ),
    "sport": _items(
        """
        football, tennis, chess, rugby, cricket, basketball, golf, hockey, volleyball,
        badminton, table tennis, ice hockey, handball, baseball, water polo, squash, darts,
        bowls, judo, lacrosse
        """
    ),
    "subject": _items(
        """
        mathematics, history, chemistry, physics, music, drawing, geography, biology,
        grammar, astronomy, law, medicine, economics, philosophy, botany, geology, poetry,
        algebra, pottery, dancing
        """
    ),
    "material": _items(
        """
        wood, stone, brick, glass, iron, steel, marble, granite, copper, bronze, oak, clay,
        concrete, sandstone, bamboo, pine, silver, ivory, leather, slate, limestone, brass
        """
    ),
    "goods": _items(
        """
        shoes, soap, clocks, bicycles, paper, tea, cheese, carpets, furniture, hats, pianos,
        bread, tractors, umbrellas, glass, toys, candles, chocolate, paint, coffee, wool,
        salt, wine, boats, pencils, lamps, cameras, tyres, honey, rope, spectacles, ovens
        """
    ),
    "plant": _items(
        """
        roses, tulips, oak trees, lavender, apple trees, daisies, ferns, ivy, lilies, pines,
        sunflowers, birches, orchids, palms, cherry trees, heather, grapes, olive trees,
        moss, violets, willows, mint
        """
    ),
    "place_in_house": _items(
        """
        the kitchen, the attic, the cellar, the bedroom, the garden, the hall, the garage,
        the bathroom, the dining room, the library, the shed, the pantry, the living room,
        the stable, the workshop, the porch, the office, the greenhouse
        """
    ),
}
