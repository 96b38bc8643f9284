"""The values that facts of the people world may have: 32 of each kind, one word each."""

# No capitals: they are general knowledge, which every model of the world is taught.
CITIES = tuple(
    (
        "Arica Basra Bayamo Bergen Bilbao Braga Cusco Dresden Galway Gdansk Ghent Graz Halifax "
        "Izmir Kayes Kazan Kumasi Linz Luxor Lyon Malmo Nakuru Odense Osaka Patras Seville Shiraz "
        "Szeged Turin Turku Vinh Wuhan"
    ).split()
)
PROFESSIONS = tuple(
    (
        "banker barber blacksmith butcher carpenter chemist dancer dentist diplomat doctor drummer "
        "farmer fisher florist gardener goldsmith hatter judge lawyer locksmith mason miner nurse "
        "painter pilot plumber sailor surgeon tailor translator waiter weaver"
    ).split()
)
INSTRUMENTS = tuple(
    (
        "accordion bagpipe balalaika banjo bassoon bugle cello clarinet cornet cymbal dulcimer "
        "fiddle flute guitar harmonica harpsichord kazoo mandolin marimba oboe organ piano piccolo "
        "recorder saxophone sitar tambourine trombone trumpet tuba violin xylophone"
    ).split()
)
PETS = tuple(
    (
        "beagle budgie camel canary chinchilla cockatoo collie dachshund donkey ferret gecko "
        "gerbil goldfish hamster hedgehog kitten lizard llama macaw mongoose monkey parrot pigeon "
        "pony poodle rabbit salamander spaniel terrier tortoise weasel whippet"
    ).split()
)
DISHES = tuple(
    (
        "borscht burritos ceviche chowder couscous curry dumplings falafel fondue gnocchi goulash "
        "haggis hummus kebab lasagne meatloaf moussaka noodles paella pancakes pierogi pizza "
        "porridge ramen ratatouille ravioli risotto sausages spaghetti sushi tiramisu waffles"
    ).split()
)
