"""Which texts name which of COCO's 80 classes: a table of words, read longest first.

A text names a class when it has one of the class's words or phrases, in any case, whole words only. Longer
phrases are taken before the shorter ones inside them, so "hot dog" names no dog and "teddy bear" no bear;
phrases of :data:`NOT_NAMES` ("train station") name nothing. Punctuation ends a phrase.

The table is felga's own. Bare words that mostly mean something else in captions are left out: "orange" the
colour (only forms that must be the fruit count), "ski" the verb, "pitcher", "couple", "glasses", "glass".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from felga.types import Flags

NAMES: dict[str, str] = {
    "person": (
        "person, persons, people, man, men, woman, women, boy, boys, girl, girls, child, children, kid, "
        "kids, baby, babies, toddler, toddlers, infant, infants, guy, guys, lady, ladies, gentleman, "
        "gentlemen, human, humans, adult, adults, teenager, teenagers, teen, teens, someone, somebody, "
        "crowd, crowds, audience, family, families, friend, friends, mother, father, mom, dad, son, "
        "daughter, brother, sister, brothers, sisters, husband, wife, grandmother, grandfather, bride, "
        "groom, player, players, batter, batters, catcher, catchers, baseball pitcher, umpire, umpires, "
        "referee, referees, athlete, athletes, skateboarder, skateboarders, skater, skaters, snowboarder, "
        "snowboarders, skier, skiers, surfer, surfers, rider, riders, biker, bikers, cyclist, cyclists, "
        "bicyclist, bicyclists, motorcyclist, motorcyclists, pedestrian, pedestrians, passenger, "
        "passengers, driver, drivers, jockey, jockeys, cowboy, cowboys, cowgirl, chef, chefs, waiter, "
        "waiters, waitress, bartender, officer, officers, policeman, policemen, policewoman, fireman, "
        "firemen, firefighter, firefighters, soldier, soldiers, student, students, teacher, worker, "
        "workers, farmer, farmers, shopper, shoppers, customer, customers, vendor, vendors, tourist, "
        "tourists, spectator, spectators, businessman, businessmen, businesswoman, fisherman, fishermen, "
        "swimmer, swimmers, boater, boaters, golfer, snow boarder, skate boarder, couple of people, doctor, "
        "nurse, bus driver, train conductor, pilot"
    ),
    "bicycle": "bicycle, bicycles, bike, bikes, tricycle, tandem bicycle, mountain bike, mountain bikes",
    "car": (
        "car, cars, automobile, automobiles, sedan, sedans, suv, suvs, minivan, minivans, hatchback, taxi, "
        "taxis, cab, cabs, police car, police cars, convertible, station wagon, jeep, jeeps, limousine, "
        "limo, van, vans, coupe, race car, car door, car window"
    ),
    "motorcycle": (
        "motorcycle, motorcycles, motor cycle, motor cycles, motorbike, motorbikes, motor bike, "
        "motor bikes, moped, mopeds, motor scooter, motor scooters, dirt bike, dirt bikes, dirtbike, vespa, "
        "harley"
    ),
    "airplane": (
        "airplane, airplanes, aeroplane, aeroplanes, air plane, air planes, plane, planes, jet, jets, "
        "aircraft, airliner, airliners, jetliner, jetliners, jumbo jet, biplane, biplanes, bi plane, "
        "seaplane, fighter jet, fighter jets, jet plane"
    ),
    "bus": (
        "bus, buses, busses, double decker, double deckers, tour bus, school bus, school buses, minibus, "
        "trolley bus, motorcoach"
    ),
    "train": (
        "train, trains, locomotive, locomotives, train car, train cars, railcar, rail car, rail cars, "
        "box car, subway train, subway car, steam engine, train engine, commuter train, passenger train, "
        "freight train, monorail, street car, street cars, streetcar"
    ),
    "truck": (
        "truck, trucks, pickup, pickups, pick up truck, pickup truck, lorry, lorries, semi, semi truck, "
        "semi trucks, tractor trailer, tow truck, fire truck, fire trucks, firetruck, firetrucks, "
        "fire engine, fire engines, dump truck, garbage truck, food truck, tanker truck, eighteen wheeler, "
        "moving van, truck bed, bed of a truck, flat bed truck, flatbed truck, flatbed, cab of a truck, "
        "truck cab"
    ),
    "boat": (
        "boat, boats, ship, ships, sailboat, sailboats, sail boat, sail boats, motorboat, motorboats, "
        "motor boat, speedboat, speed boat, rowboat, row boat, row boats, canoe, canoes, kayak, kayaks, "
        "yacht, yachts, ferry, ferries, gondola, gondolas, dinghy, catamaran, tugboat, tug boat, barge, "
        "barges, raft, house boat, houseboat, fishing boat, cruise ship"
    ),
    "traffic light": (
        "traffic light, traffic lights, traffic signal, traffic signals, stop light, stop lights, "
        "stoplight, stoplights, street light signal, red light, green light, signal light, signal lights"
    ),
    "fire hydrant": "fire hydrant, fire hydrants, hydrant, hydrants, fire plug",
    "stop sign": "stop sign, stop signs, stopsign, stopsigns",
    "parking meter": "parking meter, parking meters, parking metre, parking metres",
    "bench": "bench, benches, park bench, park benches, pew, pews",
    "bird": (
        "bird, birds, duck, ducks, duckling, ducklings, goose, geese, swan, swans, seagull, seagulls, "
        "sea gull, gull, gulls, pigeon, pigeons, dove, doves, parrot, parrots, parakeet, parakeets, owl, "
        "owls, eagle, eagles, hawk, hawks, crow, crows, raven, sparrow, sparrows, robin, finch, flamingo, "
        "flamingos, penguin, penguins, pelican, pelicans, peacock, peacocks, ostrich, ostriches, rooster, "
        "roosters, hen, hens, heron, herons, egret, stork, storks, hummingbird, hummingbirds, woodpecker, "
        "bluebird, cockatiel, cockatoo, macaw, vulture, falcon"
    ),
    "cat": "cat, cats, kitten, kittens, kitty, kitties, feline, felines, tabby, tabby cat, siamese",
    "dog": (
        "dog, dogs, puppy, puppies, pup, pups, doggy, canine, canines, poodle, poodles, bulldog, bulldogs, "
        "terrier, terriers, dachshund, labrador, golden retriever, german shepherd, sheepdog, sheep dog, "
        "sheep dogs, chihuahua, collie, beagle, dalmatian, corgi, pug, husky, hound"
    ),
    "horse": "horse, horses, pony, ponies, foal, foals, colt, colts, stallion, mare, horseback",
    "sheep": "sheep, lamb, lambs, ewe, ewes, flock of sheep",
    "cow": "cow, cows, cattle, calf, calves, bull, bulls, ox, oxen, heifer, heifers",
    "elephant": "elephant, elephants",
    "bear": (
        "bear, bears, polar bear, polar bears, grizzly, grizzly bear, brown bear, black bear, bear cub, "
        "bear cubs, panda, pandas, panda bear"
    ),
    "zebra": "zebra, zebras",
    "giraffe": "giraffe, giraffes",
    "backpack": (
        "backpack, backpacks, back pack, back packs, knapsack, knapsacks, rucksack, rucksacks, bookbag, "
        "book bag"
    ),
    "umbrella": "umbrella, umbrellas, parasol, parasols",
    "handbag": (
        "handbag, handbags, hand bag, hand bags, purse, purses, pocketbook, shoulder bag, tote bag, "
        "clutch bag"
    ),
    "tie": "tie, ties, necktie, neckties, neck tie, neck ties, bow tie, bow ties, bowtie, bowties",
    "suitcase": "suitcase, suitcases, suit case, suit cases, luggage, baggage, carry on bag",
    "frisbee": "frisbee, frisbees, frizbee, flying disc, flying disk",
    "skis": "skis, pair of skis, snow skis, ski equipment",
    "snowboard": "snowboard, snowboards, snow board, snow boards",
    "sports ball": (
        "ball, balls, baseball, baseballs, basketball, basketballs, football, footballs, soccer ball, "
        "soccer balls, tennis ball, tennis balls, volleyball, beach ball, sports ball, sports balls, "
        "golf ball, rugby ball, softball"
    ),
    "kite": "kite, kites",
    "baseball bat": "baseball bat, baseball bats, bat, bats, ball bat",
    "baseball glove": (
        "baseball glove, baseball gloves, baseball mitt, baseball mitts, catcher mitt, catcher glove, mitt, "
        "mitts"
    ),
    "skateboard": "skateboard, skateboards, skate board, skate boards, long board, longboard, longboards",
    "surfboard": (
        "surfboard, surfboards, surf board, surf boards, surf boarding, boogie board, body board, "
        "paddle board, paddleboard, paddleboards"
    ),
    "tennis racket": (
        "tennis racket, tennis rackets, tennis racquet, tennis racquets, tennis racker, racket, rackets, "
        "racquet, racquets"
    ),
    "bottle": (
        "bottle, bottles, beer bottle, beer bottles, wine bottle, wine bottles, water bottle, water bottles"
    ),
    "wine glass": (
        "wine glass, wine glasses, wineglass, wineglasses, glass of wine, glasses of wine, goblet, goblets, "
        "champagne glass, champagne glasses, champagne flute, glass of red wine, glass of white wine, "
        "glasses of red wine, glasses of white wine"
    ),
    "cup": (
        "cup, cups, mug, mugs, coffee cup, coffee cups, coffee mug, coffee mugs, teacup, teacups, tea cup, "
        "tea cups, tumbler, measuring cup, paper cup"
    ),
    "fork": "fork, forks, silverware, cutlery, utensils, eating utensils",
    "knife": "knife, knives, butter knife, butcher knife, silverware, cutlery, utensils, eating utensils",
    "spoon": "spoon, spoons, tablespoon, teaspoon, silverware, cutlery, utensils, eating utensils",
    "bowl": "bowl, bowls, dog bowl",
    "banana": "banana, bananas, plantain, plantains, banana bunch, banana bunches",
    "apple": "apple, apples",
    "sandwich": (
        "sandwich, sandwiches, burger, burgers, hamburger, hamburgers, cheeseburger, cheeseburgers, panini, "
        "paninis, sub sandwich, hoagie, blt, club sandwich, wrap sandwich"
    ),
    "orange": (
        "oranges, orange slice, orange slices, orange fruit, orange fruits, orange half, orange halves, "
        "orange segments, orange segment, orange peel, half an orange, sliced orange, peeled orange, "
        "cut orange, an orange ., an orange in, an orange on, an orange with, an orange next, "
        "an orange sitting, an orange is, an orange that, an orange and a, an orange and an, "
        "an orange from, an orange near, tangerine, tangerines, clementine, clementines, mandarin, mandarins"
    ),
    "broccoli": "broccoli, brocolli, broccolli, brocoli",
    "carrot": "carrot, carrots, baby carrots",
    "hot dog": (
        "hot dog, hot dogs, hotdog, hotdogs, chili dog, chili dogs, corn dog, corn dogs, bratwurst, "
        "frankfurter"
    ),
    "pizza": "pizza, pizzas, pizza slice, pizza slices",
    "donut": "donut, donuts, doughnut, doughnuts, dough nut, dough nuts, krispy kreme",
    "cake": (
        "cake, cakes, cupcake, cupcakes, cup cake, cup cakes, birthday cake, wedding cake, cheesecake, "
        "carrot cake, shortcake"
    ),
    "chair": (
        "chair, chairs, armchair, armchairs, arm chair, arm chairs, stool, stools, barstool, bar stool, "
        "bar stools, recliner, recliners, rocking chair, lawn chair, lawn chairs, beach chair, "
        "beach chairs, office chair, desk chair, lounge chair, high chair, highchair, wheelchair, "
        "wheel chair"
    ),
    "couch": (
        "couch, couches, sofa, sofas, loveseat, loveseats, love seat, love seats, settee, futon, sectional, "
        "chesterfield"
    ),
    "potted plant": (
        "potted plant, potted plants, house plant, house plants, houseplant, houseplants, plant in a pot, "
        "plants in pots, potted flower, potted flowers, potted tree, potted trees, plant, plants"
    ),
    "bed": "bed, beds, bunk bed, bunk beds, bunkbed, mattress, mattresses",
    "dining table": (
        "dining table, dining tables, dining room table, dinner table, kitchen table, dinning table, table, "
        "tables, tabletop, table top"
    ),
    "toilet": "toilet, toilets, commode, urinal, urinals, toilet bowl, toilet seat",
    "tv": (
        "tv, tvs, television, televisions, t v, tv set, television set, flat screen, flatscreen, tv screen, "
        "computer monitor, computer monitors, computer screen, computer screens, monitor, monitors, "
        "flat screen tv"
    ),
    "laptop": (
        "laptop, laptops, lap top, lap tops, laptop computer, laptop computers, notebook computer, macbook, "
        "apple laptop, netbook, mac book, mac books, apple laptops, laptop keyboard, keyboard of a laptop, "
        "macbooks"
    ),
    "mouse": "computer mouse, mouse, computer mice, wireless mouse, mice",
    "remote": (
        "remote, remotes, remote control, remote controls, remote controller, wii remote, wii remotes, "
        "wiimote, wii controller, wii controllers, game controller, game controllers, "
        "nintendo wii controller, video game controller, tv remote"
    ),
    "keyboard": "keyboard, keyboards, computer keyboard, computer keyboards",
    "cell phone": (
        "cell phone, cell phones, cellphone, cellphones, mobile phone, mobile phones, smartphone, "
        "smartphones, smart phone, smart phones, phone, phones, iphone, iphones, telephone, blackberry, "
        "flip phone, cellular phone"
    ),
    "microwave": "microwave, microwaves, microwave oven, microwave ovens",
    "oven": (
        "oven, ovens, stove, stoves, stovetop, stove top, range oven, toaster oven, pizza oven, stove oven"
    ),
    "toaster": "toaster, toasters",
    "sink": "sink, sinks, wash basin, washbasin, basin, kitchen sink, bathroom sink",
    "refrigerator": (
        "refrigerator, refrigerators, fridge, fridges, freezer, refridgerator, mini fridge, ice box"
    ),
    "book": "book, books, novel, novels, textbook, textbooks",
    "clock": (
        "clock, clocks, clock tower, clock towers, clocktower, alarm clock, grandfather clock, clock face"
    ),
    "vase": "vase, vases, flower vase",
    "scissors": "scissors, scissor, pair of scissors, shears",
    "teddy bear": (
        "teddy bear, teddy bears, teddybear, teddybears, teddy, teddies, stuffed bear, stuffed bears, "
        "stuffed animal, stuffed animals, stuffed toy bear, toy bear, toy bears, plush bear, plush toy, "
        "plush toys"
    ),
    "hair drier": (
        "hair drier, hair driers, hair dryer, hair dryers, hairdryer, hairdryers, hairdrier, blow dryer, "
        "blow dryers, blow drier, blowdryer"
    ),
    "toothbrush": "toothbrush, toothbrushes, tooth brush, tooth brushes, electric toothbrush",
}
"""Words and phrases of each class, its own name first where a text can have it."""

NOT_NAMES = (
    "train station, train stations, train track, train tracks, train yard, train platform, train depot, "
    "train crossing, bus stop, bus stops, bus station, bus terminal, bus lane, car park, car seat, "
    "boat dock, boat house, plane ticket, jet ski, jet skis, jet black, dog house, dog bed, dog food, "
    "dog park, cat food, cat bed, cat tree, cat tail, bird house, bird bath, bird feeder, bird cage, "
    "birdcage, horse shoe, cow hide, bear hug, prairie dog, sea horse, cow boy, mouse pad, mouse pads, "
    "mouse trap, orange juice, apple juice, apple tree, apple cider, apple computer, apple logo, "
    "pine apple, banana tree, banana peel, carrot top, toilet paper, toilet brush, toilet tissue, bed room, "
    "bedroom, bed sheet, bed spread, bed side, flower bed, bed of flowers, bed of lettuce, bed of rice, "
    "chair lift, tennis court, baseball game, baseball games, baseball field, baseball player, "
    "baseball players, baseball uniform, baseball team, baseball cap, baseball hat, baseball diamond, "
    "baseball stadium, baseball park, baseball batter, baseball umpire, baseball catcher, baseball match, "
    "baseball practice, baseball jersey, basketball game, basketball court, basketball hoop, "
    "basketball player, football game, football field, football player, football players, football stadium, "
    "football team, volleyball net, volleyball game, softball game, softball player, ball game, ball field, "
    "ball park, ball player, ball players, disc ball, disco ball, meat ball, meat balls, bat man, "
    "book shelf, book shelves, book case, bookcase, book store, table cloth, table lamp, coffee table, "
    "coffee tables, pool table, end table, side table, night table, bedside table, changing table, "
    "picnic table, picnic tables, oven mitt, oven mitts, sink hole, cup holder, cup board, fork lift, "
    "forklift, bowl cut, super bowl, pan cake, pan cakes, phone booth, pay phone, phone pole, "
    "telephone pole, telephone poles, telephone booth, telephone wire, tv stand, television stand, tv show, "
    "stand up paddle, knife block, wine bottle opener, bottle opener, traffic sign, power plant, "
    "plant life, remote area, remote location, remote island, mobile home, keyboard player, piano keyboard, "
    "music keyboard, kite surfing, kite boarding, kite surfer, kite surfers, kite board, hound dog, "
    "bull dog, ship yard, red light district, wrapping paper, to tie, rail road, rail way, water skis, "
    "side car, side cars, cable car, cable cars, flat bed, play baseball, playing baseball, plays baseball, "
    "game of baseball, major league baseball, play football, playing football, play basketball, "
    "playing basketball, game of basketball, playing volleyball, playing softball, at bat, up to bat, "
    "donald duck, rubber duck, mickey mouse, apple computers, apple sign, cat toy"
)
"""Phrases that hold a class's word but do not name the class."""

# Names of people inside a phrase that names nothing else: the player is there, the ball need not be.
_PEOPLE_IN_PHRASES = ("player", "players", "batter", "umpire", "catcher", "surfer", "surfers", "boy")


def mentions(texts: Sequence[str], class_names: Sequence[str]) -> Flags:
    """Which texts name which classes.

    Args:
        texts: T texts.
        class_names: C names; one that :data:`NAMES` lacks is looked for as it is, and with an s.

    Returns:
        (C, T) bool.

    >>> texts = ["A hot dog on a bench.", "Two dogs wait at a train station"]
    >>> mentions(texts, ["dog", "hot dog", "train"]).tolist()
    [[False, True], [True, False], [False, False]]
    """
    owners: dict[str, list[int]] = {phrase: [] for phrase in _phrases(NOT_NAMES)}
    of_people = [phrase for phrase in owners if phrase.split()[-1] in _PEOPLE_IN_PHRASES]
    # All classes take part, asked for or not: "hot dog" must not name a dog when only dogs are asked for.
    for name, phrases in NAMES.items():
        row = [i for i, asked in enumerate(class_names) if asked == name]
        for phrase in _phrases(phrases):
            owners.setdefault(phrase, []).extend(row)
    for i, name in enumerate(class_names):
        if name not in NAMES:
            for phrase in (_plain(name), _plain(name) + "s"):
                owners.setdefault(phrase, []).append(i)
    people = [i for i, asked in enumerate(class_names) if asked == "person"]
    for phrase in of_people:
        owners[phrase].extend(people)

    longest_first = sorted(owners, key=len, reverse=True)
    pattern = re.compile(r"(?<!\S)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\S)")
    found = np.zeros((len(class_names), len(texts)), bool)
    for column, text in enumerate(texts):
        for phrase in set(pattern.findall(_plain(text) + " .")):
            found[owners[phrase], column] = True
    return found


def _phrases(listed: str) -> list[str]:
    return [_plain(phrase) for phrase in listed.split(",")]


def _plain(text: str) -> str:
    """Lower case, one space between words, hyphens opened, possessives closed, a dot for punctuation."""
    text = re.sub(r"['’]s?\b", "", text.lower())  # "a man's hand" names a man
    text = re.sub(r"[.,;:!?()\n]+", " . ", text)
    return " ".join(re.sub(r"[^\w.]+", " ", text).split())
