"""The colour of each method in all pictures: the colour-blind safe palette of Okabe and Ito."""

from collections.abc import Iterable

BLUE, ORANGE, RED, GREEN = '#0072B2', '#E69F00', '#D55E00', '#009E73'
COLOURS = {
    'BFN': '#999999',
    'QC-BFN': '#56B4E9',
    'FQL': ORANGE,
    'QC-FQL': RED,
    'MVP': GREEN,
    'DFP': BLUE,
    'DFP-MS': '#332288',
    'MVP-topK': '#F0E442',
    'DFP-notopk': '#CC79A7',
    'DFP-10': '#000000',
}
ALIASES = {'MVP w/ top-K': 'MVP-topK', 'DFP w/o top-K': 'DFP-notopk'}
OTHERS = ('#882255', '#117733', '#AA4499', '#44AA99', '#661100')


def colours(methods: Iterable[str]) -> dict[str, str]:
    """Returns a colour per method; methods without their own take the remaining ones in turn."""
    known = {method: COLOURS.get(ALIASES.get(method, method)) for method in methods}
    rest = iter(OTHERS * len(known))
    return {method: colour or next(rest) for method, colour in known.items()}
