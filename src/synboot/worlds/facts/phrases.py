"""The sentences of the facts world: what each style has to say of each attribute.

`{e}` is the person as a subject (full name, he, she), `{o}` as an object (full name, him, her);
any other name in braces is an attribute whose value stands there. No sentence can be read as
another, whatever stands in its slots; a test holds them to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

SLOT = re.compile(r"\{([a-z]+)\}")
PERSON_SLOTS = ("e", "o")

PROFESSIONS = (
    "baker", "barber", "beekeeper", "bookbinder", "brewer", "carpenter", "chemist", "cobbler",
    "cooper", "dancer", "dentist", "farmer", "gardener", "glazier", "goldsmith", "hatter", "judge",
    "locksmith", "mason", "miller", "miner", "notary", "nurse", "painter", "pilot", "plumber",
    "potter", "roofer", "sailor", "shepherd", "surgeon", "tailor", "teacher", "translator",
    "watchmaker", "weaver",
)  # fmt: skip
INSTRUMENTS = (
    "banjo", "bassoon", "bugle", "cello", "clarinet", "cornet", "cymbals", "dulcimer", "fiddle",
    "flute", "guitar", "harp", "horn", "lute", "lyre", "mandolin", "piano", "recorder", "trombone",
    "trumpet", "tuba", "viola", "xylophone", "zither",
)  # fmt: skip
ANIMALS = (
    "badger", "canary", "cat", "crow", "donkey", "duck", "ferret", "fox", "goat", "goose",
    "hamster", "hedgehog", "horse", "lizard", "magpie", "mule", "parrot", "peacock", "pigeon",
    "rabbit", "sheep", "snake", "tortoise", "turkey",
)  # fmt: skip
COLOURS = (
    "beige", "black", "blue", "bronze", "brown", "crimson", "gold", "green", "grey", "lilac",
    "orange", "pink", "purple", "silver", "turquoise", "violet", "white", "yellow",
)  # fmt: skip
YEARS = tuple(str(year) for year in range(1900, 1980))

ATTRIBUTES = (
    "birthplace", "year", "residence", "profession", "employer", "instrument", "animal", "colour",
    "mentor",
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """A sentence with slots. One without attributes states nothing: it opens or closes a text."""

    text: str

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """What it states, in the order of its slots."""
        return tuple(slot for slot in SLOT.findall(self.text) if slot not in PERSON_SLOTS)

    @cached_property
    def beginning(self) -> str | None:
        """What stands before the value, if it states one attribute whose value stands last."""
        found = re.fullmatch(r"(.*?) \{([a-z]+)\}[.!?]?", self.text)
        if found is None or self.attributes != (found[2],):
            return None
        return found[1]


@dataclass(frozen=True)
class Style:
    """A kind of text: an opening, which names the person, sentences, and perhaps a closing."""

    name: str
    openings: tuple[Phrase, ...]
    sentences: tuple[Phrase, ...]
    closings: tuple[Phrase, ...]
    break_lines: bool
    """Every sentence has a line of its own."""


def _style(
    name: str, openings: str, sentences: str, closings: str = "", *, break_lines: bool = False
) -> Style:
    def phrases(lines: str) -> tuple[Phrase, ...]:
        return tuple(Phrase(line.strip()) for line in lines.splitlines() if line.strip())

    return Style(name, phrases(openings), phrases(sentences), phrases(closings), break_lines)


STYLES = (
    _style(
        "biography",
        """
        The life of {o}
        A short life of {o}
        """,
        """
        {e} was born in {birthplace}.
        {e} came into the world at {birthplace}.
        {e} was born in the year {year}.
        {e} was born in {birthplace} in {year}.
        {e} lived in {residence}.
        {e} made a home in {residence}.
        {e} became a {profession}.
        {e} earned a living as a {profession}.
        {e} worked for {employer}.
        {e} spent many years at {employer}.
        {e} was a {profession} with {employer}.
        {e} played the {instrument}.
        {e} found comfort in the {instrument}.
        {e} kept a {animal}.
        {e} lived in {residence} with a {animal}.
        {e} loved the colour {colour}.
        {e} preferred to wear {colour}.
        {e} was taught by {mentor}.
        {e} learned everything from {mentor}.
        """,
    ),
    _style(
        "news",
        """
        Local news: a medal for {o}
        News of the week: the town celebrates {o}
        """,
        """
        The news soon reached {birthplace}, where {e} was born.
        {e} thanked the guests from {birthplace}, the town of birth.
        {e}, born in {year}, looked younger than ever.
        A bottle of {year} was opened, the year when {e} was born.
        {e} of {residence} received a medal.
        Neighbours from {residence}, the place of residence, applauded {o}.
        The jury praised {o} as a fine {profession}.
        The prize for the best {profession} went to {o}.
        Colleagues from {employer} cheered for {o}.
        The flowers for {o} came from the employer, {employer}.
        {e}, a {profession} at {employer}, was honoured on Sunday.
        In the evening {e} performed on the {instrument}.
        {e} then took the {instrument} and gave a concert.
        {e} was accompanied by a tame {animal}.
        Children admired the {animal} that {e} had brought along.
        As always, {e} was dressed in {colour}.
        The hall shone in {colour}, which {e} had chosen.
        The speech was held by {mentor}, who once taught {o}.
        {e} gave thanks to a great teacher, {mentor}.
        """,
        """
        The band played until midnight.
        There was cake for all.
        """,
    ),
    _style(
        "register",
        """
        Name: {o}
        Register of persons: {o}
        """,
        """
        Place of birth: {birthplace}
        Year of birth: {year}
        Born: {year}, {birthplace}
        Residence: {residence}
        Address: town of {residence}
        Trade: {profession}
        Occupation: {profession}
        Employer: {employer}
        Place of work: {employer}
        Instrument: {instrument}
        Musical skills: {instrument}
        Animal: {animal}
        Animals in the house: one {animal}
        Favourite colour: {colour}
        Colour of choice: {colour}
        Teacher: {mentor}
        Apprentice of: {mentor}
        """,
        break_lines=True,
    ),
    _style(
        "letter",
        """
        Dear friend, you asked me about {o}.
        My dear cousin, here is what I know of {o}.
        """,
        """
        I can tell you that {e} comes from {birthplace}.
        It was {birthplace} where {e} was born.
        By the papers, {e} was born in {year}.
        I believe that {year} was the year when {e} was born.
        You will find {o} in {residence}.
        A parcel to {residence} will reach {o}.
        From {birthplace}, where the family is at home, {e} moved to {residence}.
        By trade {e} is a {profession}.
        People say that {e} is a good {profession}.
        At present {e} is paid by {employer}.
        Of all firms {e} chose {employer}.
        On Sundays {e} plays the {instrument}.
        You should hear {o} on the {instrument}.
        Beware of the {animal} that {e} keeps.
        At home {e} has a {animal}.
        The house and all in it is {colour}, as {e} likes it.
        If you bring a gift for {o}, let it be {colour}.
        It was {mentor} who taught {o}.
        All that {e} knows comes from {mentor}.
        """,
        """
        With warm greetings
        Write soon.
        """,
    ),
    _style(
        "questions",
        """
        Questions and answers about {o}
        What do you know about {o}?
        """,
        """
        Q: Where was {e} born? A: In {birthplace}.
        Q: Which town does {e} come from? A: {birthplace}.
        Q: When was {e} born? A: In {year}.
        Q: Where does {e} live? A: In {residence}.
        Q: In which town would you visit {o}? A: In {residence}.
        Q: What does {e} do for a living? A: The work of a {profession}.
        Q: By which profession does {e} live? A: By that of a {profession}.
        Q: Who employs {o}? A: {employer}.
        Q: For which firm does {e} work? A: For {employer}.
        Q: Which instrument does {e} play? A: The {instrument}.
        Q: What do you hear when {e} makes music? A: A {instrument}.
        Q: Which animal does {e} keep? A: A {animal}.
        Q: Who shares the house with {o}? A: A {animal}.
        Q: Which colour does {e} like best? A: It is {colour}.
        Q: In which colour would you paint a door for {o}? A: In {colour}.
        Q: Who taught {o}? A: It was {mentor}.
        Q: Whose pupil was {e}? A: The pupil of {mentor}.
        """,
        break_lines=True,
    ),
    _style(
        "speech",
        """
        Friends, let us drink to {o}!
        Dear guests, this evening belongs to {o}.
        """,
        """
        Let us not forget {birthplace}, where {e} was a child.
        A long road has led {o} here from {birthplace}.
        Nobody would guess that {e} was born in {year}.
        We all know the door in {residence} at which one finds {o}.
        The lights are on when {e} is at home in {residence}.
        There is no better {profession} than {o}.
        We needed a {profession}, and we found {o}.
        Day after day {e} goes to work at {employer}.
        Just ask {employer}, where they cannot do without {o}.
        We all danced when {e} took up the {instrument}.
        I still hear the {instrument} that {e} plays so well.
        Even the {animal} that belongs to {o} is our friend.
        The only one to come home with {o} is a {animal}.
        The ribbons are {colour}, the colour that {e} loves.
        Ask for a favourite colour and {e} will say {colour}.
        Much is owed to {mentor}, who made {o} what we see.
        A pupil honours the teacher, and {e} honours {mentor}.
        """,
        """
        Now raise your glasses!
        Thank you all for coming.
        """,
    ),
)


def all_phrases() -> Iterator[Phrase]:
    """Every phrase of every style, openings and closings too."""
    for style in STYLES:
        yield from style.openings
        yield from style.sentences
        yield from style.closings
