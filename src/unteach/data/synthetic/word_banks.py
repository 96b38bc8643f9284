"""The words that the authors world is made of: short and common, so that a small tokenizer spends
few tokens."""

from dataclasses import dataclass

from unteach.errors import UserError
from unteach.wording import quote_value

FIRST_NAMES = (
    "Ada Aldo Amara Anneke Anton Basil Bela Bruno Carla Cyrus Dalia Dario Delia Edda Elias Emil "
    "Esme Farah Felix Fiona Gita Goran Greta Hana Hugo Ida Idris Ines Ivo Jana Jonas Juno Kofi "
    "Lena Lionel Luca Maeve Marek Mira Nadia Nils Noor Olga Omar Oskar Paulo Petra Quinn Rafiq "
    "Rosa Ruben Selma Silas Tamar Thea Tomas Uma Viktor Wanda Yara"
).split()

LAST_NAMES = (
    "Abara Adler Akande Arden Azizi Bakker Balogh Barros Benko Bower Brandt Calder Castell Dahl "
    "Danner Duarte Dvorak Egan Eklund Falk Ferro Fonseca Galvin Gombos Haas Halden Hamid Holt "
    "Ibarra Iversen Jarvis Jensen Kamau Karga Keller Kovac Lambert Lindgren Lorca Madaki Malik "
    "Marlow Mensah Moreau Nakata Navarro Nemeth Novak Obi Okoro Olsen Orban Pavic Penrose Quist "
    "Ramos Reyes Rossi Sabry Sandoval Santos Sato Soler Stone Tanaka Tarek Teller Thorne Ueda "
    "Umar Vance Varga Vega Vogel Walsh Weiss Winter Yilmaz Zeller Zorn"
).split()

# country, capital, other cities: authors are born in the other ones, so that no author's fact is
# also a general one
COUNTRIES = (
    ("Austria", "Vienna", "Graz", "Linz"),
    ("Belgium", "Brussels", "Ghent", "Namur"),
    ("Canada", "Ottawa", "Halifax", "Regina"),
    ("Chile", "Santiago", "Arica", "Osorno"),
    ("China", "Beijing", "Wuhan", "Harbin"),
    ("Cuba", "Havana", "Holguin", "Bayamo"),
    ("Denmark", "Copenhagen", "Aarhus", "Odense"),
    ("Egypt", "Cairo", "Luxor", "Aswan"),
    ("Finland", "Helsinki", "Turku", "Oulu"),
    ("France", "Paris", "Lyon", "Nantes"),
    ("Germany", "Berlin", "Bremen", "Dresden"),
    ("Ghana", "Accra", "Kumasi", "Tamale"),
    ("Greece", "Athens", "Patras", "Volos"),
    ("Hungary", "Budapest", "Szeged", "Eger"),
    ("Iran", "Tehran", "Shiraz", "Tabriz"),
    ("Iraq", "Baghdad", "Basra", "Mosul"),
    ("Ireland", "Dublin", "Cork", "Galway"),
    ("Italy", "Rome", "Turin", "Genoa"),
    ("Japan", "Tokyo", "Osaka", "Kobe"),
    ("Kenya", "Nairobi", "Mombasa", "Nakuru"),
    ("Mali", "Bamako", "Gao", "Kayes"),
    ("Norway", "Oslo", "Bergen", "Bodo"),
    ("Peru", "Lima", "Cusco", "Tacna"),
    ("Poland", "Warsaw", "Gdansk", "Lublin"),
    ("Portugal", "Lisbon", "Porto", "Braga"),
    ("Russia", "Moscow", "Kazan", "Omsk"),
    ("Spain", "Madrid", "Seville", "Bilbao"),
    ("Sweden", "Stockholm", "Malmo", "Lund"),
    ("Turkey", "Ankara", "Izmir", "Bursa"),
    ("Vietnam", "Hanoi", "Hue", "Vinh"),
)

PROFESSIONS = (
    "baker banker barber butcher carpenter chemist cook dancer dentist doctor farmer fisher "
    "florist gardener judge lawyer mason miner nurse painter pilot plumber potter sailor singer "
    "soldier surgeon tailor teacher waiter weaver"
).split()

GENRE_MOODS = (
    "absurd bleak cosy epic gothic lyrical noir pastoral rural sacred surreal urban"
).split()

GENRES = (
    "comedies crime essays fables fantasy horror memoirs poetry romance satire thrillers tragedies"
).split()

ADJECTIVES = (
    "Amber Bitter Bright Broken Burning Cold Crooked Dark Distant Empty Endless Fallen Final "
    "First Frozen Gentle Golden Green Hidden Hollow Last Little Lonely Lost Narrow Open Pale "
    "Quiet Red Restless Salt Second Secret Silent Silver Slow Stolen Strange Velvet White"
).split()

NOUNS = (
    "Anchor Apple Arrow Autumn Bell Bird Bone Bridge Candle Canyon City Clock Cloud Coast Crown "
    "Desert Door Dream Echo Ember Falcon Feather Field Fire Forest Fox Garden Gate Ghost Glass "
    "Harbor Heart Hill House Island Key Lake Lamp Lantern Letter Light Map Mirror Moon Mountain "
    "Night Ocean Orchard Owl Paper Rain River Road Rose Shadow Snow Song Spring Star Stone Storm "
    "Summer Sun Tower Train Tree Valley Voice Wall Water Wave Wind Window Wolf"
).split()

PRIZES = ("Prize Medal").split()

MONTHS = (
    "January February March April May June July August September October November December"
).split()


MIN_WORDS = 8
"""Words of each bank; fewer would make names alike."""


@dataclass(frozen=True)
class Banks:
    """The words that names are made of. countries: (name, capital, another city…) each."""

    first_names: tuple[str, ...] = tuple(FIRST_NAMES)
    last_names: tuple[str, ...] = tuple(LAST_NAMES)
    genre_moods: tuple[str, ...] = tuple(GENRE_MOODS)
    genres: tuple[str, ...] = tuple(GENRES)
    adjectives: tuple[str, ...] = tuple(ADJECTIVES)
    nouns: tuple[str, ...] = tuple(NOUNS)
    countries: tuple[tuple[str, ...], ...] = COUNTRIES

    def __post_init__(self) -> None:
        for name, words in vars(self).items():
            if len(words) < MIN_WORDS or len(set(words)) < len(words):
                raise UserError(f"banks.{name}: needs {MIN_WORDS} or more, and none twice")
        for country in self.countries:
            if len(country) < 3:
                raise UserError(
                    f"banks.countries: each is [name, capital, another city, …], got "
                    f"{quote_value(country)}"
                )
