"""Colours for grey print and for colour-blind readers: each differs from the others in lightness."""

import math

import numpy as np

# Choices of the setting ``palette``: the classes' own colours, or those of :func:`print_colors`.
PALETTES = ("screen", "print")
# CIELAB: lightness of the darkest and the lightest colour, where white paper has 100; two hues in degrees, blue and
# orange, which people with red-green colour blindness tell apart; the largest chroma.
_DARKEST, _LIGHTEST = 20.0, 86.0
_HUES = (270.0, 75.0)
_CHROMA = 60.0
# CIE XYZ of the white D65, and the matrix from XYZ to linear sRGB (IEC 61966-2-1).
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


def print_colors(number: int) -> tuple[tuple[int, int, int], ...]:
    """Return that many RGB colours of 0..255 whose lightness differs by equal steps.

    Colours that follow each other in lightness have different hues. Colours that follow each other in the result, such
    as those of ceiling and floor, differ much in lightness. The steps of 13 colours are 5.5 of 100. If there are more
    than about 20, neighbours can hardly be told apart in grey.
    """
    order = [_lab(rank, number) for rank in range(number)]
    # The golden section puts numbers that follow each other far apart.
    step = next(s for s in range(max(round(0.382 * number), 1), number + 1) if math.gcd(s, number) == 1)
    return tuple(_in_gamut(*order[i * step % number]) for i in range(number))


def _lab(rank: int, number: int) -> tuple[float, float]:
    """Return lightness and hue of the colour that is the ``rank``-th from the dark end."""
    share = rank / max(number - 1, 1)
    return _DARKEST + share * (_LIGHTEST - _DARKEST), _HUES[rank % 2]


def _in_gamut(lightness: float, hue: float) -> tuple[int, int, int]:
    """Return the most saturated colour of a lightness and hue that sRGB has."""
    for chroma in np.arange(_CHROMA, -1, -1):
        angle = math.radians(hue)
        linear = _TO_RGB @ _xyz(lightness, chroma * math.cos(angle), chroma * math.sin(angle))
        # A grey misses the range by the rounding of the matrix.
        if chroma == 0 or (linear.min() >= 0 and linear.max() <= 1):
            break
    linear = linear.clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(value) for value in (255 * rgb).round())
    return red, green, blue


def _xyz(lightness: float, a: float, b: float) -> np.ndarray:
    """Return CIE XYZ of a colour in CIELAB (CIE 15:2004)."""
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    return _WHITE * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
