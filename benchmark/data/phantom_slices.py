"""Draws axial lumbar slices from anatomy: implicit shapes in millimetres, painted in T1 and T2 contrast.

All slices of a chunk are drawn at once: every shape is a signed distance (negative inside) over a pixel grid that
is shifted and turned into the patient's frame, and both contrasts share the shapes. Origin is the centre of the
disc, x runs to the patient's left (the viewer's right), y to the back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]
Length = float | Floats

FIELD_OF_VIEW_MM = 100.0
"""Side of a picture."""

CHUNK = 24
"""Levels drawn together: their arrays stay in the processor's cache."""

SIGNAL: dict[str, tuple[float, float]] = {
    "air": (0.02, 0.02),
    "skin": (0.45, 0.35),
    "fat": (0.84, 0.70),
    "muscle": (0.36, 0.24),
    "vessel": (0.12, 0.10),
    "disc": (0.40, 0.30),
    "annulus": (0.27, 0.15),
    "marrow": (0.55, 0.46),
    "cortex": (0.10, 0.09),
    "ligament": (0.22, 0.16),
    "joint": (0.26, 0.66),
    "csf": (0.24, 0.92),
    "root": (0.36, 0.42),
}
"""Tissue -> mean signal in T1 and T2, 1 the brightest."""


@dataclass(frozen=True)
class Scanner:
    """What pictures of one scanner have in common: ranges that each picture draws its own values from."""

    blur: tuple[float, float] = (0.35, 0.9)
    """Standard deviation of the point spread, in pixels of a 96-pixel picture."""
    noise: tuple[float, float] = (0.015, 0.05)
    """Standard deviation of the noise in either channel, 1 the brightest signal."""
    coil_back: tuple[float, float] = (-0.1, 0.45)
    """Slope of the bias field from front to back."""
    coil_side: tuple[float, float] = (-0.25, 0.25)
    """Slope of the bias field from right to left."""
    gain: tuple[float, float] = (0.75, 1.15)
    curve: tuple[float, float] = (-0.35, 0.35)
    """Bend of the contrast curve: below 0 the middle greys are darker."""


SCANNERS = {
    "A": Scanner(),
    "B": Scanner(blur=(0.6, 1.2), noise=(0.03, 0.07), coil_back=(0.2, 0.7), coil_side=(-0.35, 0.1), curve=(-0.6, 0.0)),
}
"""``A`` draws the phantom; ``B`` is blurrier, noisier, brighter at the back and darker in the middle greys. The shift
is small: the ranges of the two overlap, so that some pictures of ``B`` could be of ``A``."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Shape of n levels; every field is (n,) float32, lengths in mm unless it says otherwise."""

    scale: Floats
    """Body size, 1 for the mean."""
    shift_x: Floats
    shift_y: Floats
    turn: Floats
    """Rotation in the slice plane, radians."""
    disc_width: Floats
    disc_depth: Floats
    """Half axes of the disc."""
    concavity: Floats
    """Inward dent of a healthy posterior disc margin."""
    bulge: Floats
    """Diffuse displacement of the posterior margin."""
    herniation: Floats
    """Focal displacement, 0 for none."""
    herniation_x: Floats
    herniation_width: Floats
    degeneration: Floats
    """0 for a hydrated disc to 1 for a dark one."""
    sac_width: Floats
    sac_depth: Floats
    """Half axes of the thecal sac before disc and ligaments press on it."""
    ligament: Floats
    """Thickness of the ligamentum flavum."""
    facet: Floats
    """Radius of the articular processes."""
    facet_angle: Floats
    """0 for sagittal joints to 1 for coronal ones."""
    muscle: Floats
    """Size of the muscles, 1 for the mean."""
    infiltration: Floats
    """Share of fat in the muscles, 0 to 1."""
    fat: Floats
    """Thickness of the fat under the skin of the back."""
    asymmetry: Floats
    """Right-left difference of the muscles and facets, as a share."""

    def chunk(self, rows: slice) -> Anatomy:
        """Some levels, shaped (g, 1, 1) to broadcast over pixels."""
        return Anatomy(**{f.name: getattr(self, f.name)[rows, None, None] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Slices:
    """What was drawn of n levels."""

    pixels: NDArray[np.uint8]
    """(n, 2, size, size): T1, then T2."""
    canal: NDArray[np.bool_]
    """(n, size, size): the thecal sac."""
    canal_area_mm2: Floats
    """(n,) area of the thecal sac, body size divided out."""


def draw_slices(anatomy: Anatomy, size: int, rng: np.random.Generator, scanner: Scanner = SCANNERS["A"]) -> Slices:
    """Draw all levels in T1 and T2."""
    n = len(anatomy.scale)
    pixels = np.empty((n, 2, size, size), np.uint8)
    canal = np.empty((n, size, size), np.bool_)
    area = np.empty(n, np.float32)
    for start in range(0, n, CHUNK):
        rows = slice(start, min(start + CHUNK, n))
        part = anatomy.chunk(rows)
        canvas, sac = _Painter(part, size, rng).paint()
        pixels[rows] = _acquire(canvas, rng, scanner)
        canal[rows] = sac >= 0.5
        area[rows] = sac.sum(axis=(1, 2)) * (FIELD_OF_VIEW_MM / size / part.scale[:, 0, 0]) ** 2
    return Slices(pixels, canal, area)


# ------------------------------------------------------------------------------------------------ anatomy


class _Painter:
    """Paints the tissues of g levels from back to front."""

    def __init__(self, anatomy: Anatomy, size: int, rng: np.random.Generator) -> None:
        self.anatomy = anatomy
        self.pixel_mm = np.float32(FIELD_OF_VIEW_MM / size)
        self.rng = rng
        g = len(anatomy.scale)
        grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * self.pixel_mm
        right = grid[None, None, :] - np.float32(FIELD_OF_VIEW_MM * 0.5) - anatomy.shift_x
        back = grid[None, :, None] - np.float32(FIELD_OF_VIEW_MM * 0.34) - anatomy.shift_y
        cos, sin = np.cos(anatomy.turn), np.sin(anatomy.turn)
        self.x = (cos * right + sin * back) / anatomy.scale
        self.y = (cos * back - sin * right) / anatomy.scale
        self.side = np.abs(self.x)
        self.sign = np.sign(self.x) * anatomy.asymmetry
        white = rng.standard_normal((g, size, size), dtype=np.float32)
        self.fine = gaussian_filter(white, (0, 0.7, 0.7)) * np.float32(2.5)
        self.coarse = gaussian_filter(white, (0, 2.5, 2.5)) * np.float32(8.9)
        jitter = np.exp(0.10 * rng.standard_normal((len(SIGNAL), 2, g, 1, 1))).astype(np.float32)
        self.signal = {
            tissue: np.asarray(mean, np.float32)[:, None, None, None] * jitter[i]
            for i, (tissue, mean) in enumerate(SIGNAL.items())
        }
        self.canvas = np.broadcast_to(self.signal["air"], (2, g, size, size)).copy()

    def paint(self) -> tuple[Floats, Floats]:
        """Paint everything; returns the canvas (2, g, size, size) and the coverage of the sac (g, size, size)."""
        self._trunk()
        self._muscles()
        disc = self._disc()
        sac = self._canal(disc)
        return self.canvas, sac

    def _coverage(self, distance: Floats, softness: float = 1.0) -> Floats:
        """(g, size, size) share of each pixel inside a shape, a ramp one pixel (times softness) wide."""
        width = self.pixel_mm * np.float32(softness)
        cover: Floats = np.clip(np.float32(0.5) - distance / width, np.float32(0), np.float32(1))
        return cover

    def _fill(self, distance: Floats, tissue: str | Floats, *, softness: float = 1.0, opacity: float = 1.0) -> None:
        """Lay a tissue, or a signal (2, g, ...), over the inside of a shape."""
        signal = self.signal[tissue] if isinstance(tissue, str) else tissue
        cover = self._coverage(distance, softness) * np.float32(opacity)
        self.canvas += cover * (signal - self.canvas)

    def _ellipse(self, x: Floats, y: Floats, cx: Length, cy: Length, a: Length, b: Length) -> Floats:
        """Approximate signed distance to an ellipse."""
        radius = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2)
        return (radius - np.float32(1)) * np.minimum(a, b)

    def _bar(self, ax: Length, ay: Length, bx: Length, by: Length, radius: Length) -> Floats:
        """Signed distance to a pair of mirrored rounded bars from (ax, ay) to (bx, by)."""
        ux, uy = np.float32(bx) - np.float32(ax), np.float32(by) - np.float32(ay)
        px, py = self.side - ax, self.y - ay
        along = np.clip((px * ux + py * uy) / (ux * ux + uy * uy), np.float32(0), np.float32(1))
        dx, dy = px - along * ux, py - along * uy
        distance: Floats = np.sqrt(dx * dx + dy * dy) - radius
        return distance

    def _trunk(self) -> None:
        """Skin, fat and, in front, vessels and bowel."""
        a = self.anatomy
        furrow = 5.0 / (1.0 + (self.x / 9.0) ** 2)
        skin = self.y - (64.0 + a.fat - self.x**2 / 260.0 - furrow)
        fat = self.signal["fat"] * (1.0 + 0.10 * self.fine)
        self._fill(skin, "skin")
        self._fill(skin + 2.2, fat)
        gas = np.maximum(self.y + 27.0, 4.0 - 5.0 * np.abs(self.coarse))
        self._fill(gas, self.signal["muscle"] * (0.9 + 0.5 * self.coarse), softness=3.0)
        self._fill(self._ellipse(self.x, self.y, 7.0, -27.0, 8.0, 7.5), "vessel")
        self._fill(self._ellipse(self.x, self.y, -12.0, -25.5, 9.5, 6.5), "vessel")

    def _muscles(self) -> None:
        """Psoas, quadratus lumborum, erector spinae and multifidus, streaked with fat."""
        a = self.anatomy
        size = a.muscle * (1.0 + self.sign)
        streaks = np.clip((self.fine + self.coarse) * 0.5 + 2.4 * a.infiltration - 1.0, 0.0, 1.0)
        muscle = self.signal["muscle"] * (1.0 + 0.08 * self.fine)
        muscle = muscle + streaks * (self.signal["fat"] - muscle)
        self._fill(self._ellipse(self.side, self.y, 37.0, 2.0, 12.5 * size, 17.0 * size), muscle)
        self._fill(self._ellipse(self.side, self.y, 58.0, 22.0, 11.0, 10.0 * size), muscle)
        self._fill(self._ellipse(self.side, self.y, 36.0, 43.0, 18.0 * size, 15.0 * size), muscle)
        self._fill(self._ellipse(self.side, self.y, 13.5, 48.0, 10.0 * size, 12.0 * size), muscle)

    def _disc(self) -> Floats:
        """Disc with annulus and nucleus; returns its signed distance, displaced margin included."""
        a = self.anatomy
        near = 1.0 / (1.0 + (self.x / 10.0) ** 2)
        focal = 1.0 / (1.0 + ((self.x - a.herniation_x) / a.herniation_width) ** 2) ** 2
        out = a.bulge / (1.0 + (self.x / 20.0) ** 4) - a.concavity * near + a.herniation * focal
        y = self.y - out * np.clip(self.y / a.disc_depth, 0.0, 1.0)
        disc = self._ellipse(self.x, y, 0.0, 0.0, a.disc_width, a.disc_depth)
        hydrated = np.stack([np.ones_like(a.scale), 1.7 - 1.1 * a.degeneration])
        nucleus = self.signal["disc"] * hydrated * (1.0 + 0.10 * self.fine)
        self._fill(disc - 1.2, "cortex")
        self._fill(disc, "annulus")
        self._fill(disc + 4.0, nucleus, softness=3.5)
        return disc

    def _canal(self, disc: Floats) -> Floats:
        """Facets, laminae, ligaments, epidural fat and the sac; returns the coverage of the sac."""
        a = self.anatomy
        facet = a.facet * (1.0 + self.sign)
        back = a.disc_depth - 17.0  # the canal lies against the disc, whatever the disc's depth
        floor = 25.5 + back
        self._fill(np.maximum(self._ellipse(self.x, self.y, 0.0, floor, 14.5, 12.5), 1.0 - disc), "fat")
        self._fill(self._bar(16.0, 30.0 + back, 2.0, 39.0 + back, 3.8), "cortex")
        self._fill(self._bar(16.0, 30.0 + back, 2.0, 39.0 + back, 2.4), "marrow")
        self._fill(self._bar(0.0, 40.0 + back, 0.0, 58.0 + back, 3.9), "cortex")
        self._fill(self._bar(0.0, 40.0 + back, 0.0, 58.0 + back, 2.5), "marrow")
        outer_x, outer_y = 21.5, 22.5 + back + 2.0 * a.facet_angle
        inner_x, inner_y = 16.0 + 2.0 * a.facet_angle, 29.0 + back
        for cx, cy in ((outer_x, outer_y), (inner_x, inner_y)):
            self._fill(self._ellipse(self.side, self.y, cx, cy, facet, facet * 1.15), "cortex")
            self._fill(self._ellipse(self.side, self.y, cx, cy, facet - 1.5, facet * 1.15 - 1.5), "marrow")
        joint_x = (outer_x + inner_x) * np.float32(0.5)
        joint_y = (outer_y + inner_y) * np.float32(0.5)
        self._fill(self._bar(joint_x - 2.5, joint_y - 2.0, joint_x + 2.5, joint_y + 2.5, 0.8), "joint", opacity=0.8)
        ligament = self._bar(12.0, 22.0 + back, 1.5, 36.0 + back, a.ligament * 0.5)
        self._fill(ligament, "ligament")
        self._fill(self._ellipse(self.side, self.y, 16.5, 16.5 + back, 2.6, 2.6), "root")
        taper = 1.0 - 0.018 * (self.y - floor)
        sac = self._ellipse(self.x / taper, self.y, 0.0, floor - 1.0, a.sac_width, a.sac_depth)
        # The sac lies in front of the ligaments, on the inner side of the line that each of them follows.
        beyond = (self.side - 12.0) * 0.8 + (self.y - 22.0 - back) * 0.6
        sac = np.maximum(np.maximum(sac, 1.0 - disc), beyond + 0.5 * a.ligament + 0.5)
        self._fill(sac - 0.7, "ligament")
        roots = np.clip(0.35 + 0.35 * self.fine + 0.05 * (self.y - floor), 0.0, 0.85)
        self._fill(sac, self.signal["csf"] + roots * (self.signal["root"] - self.signal["csf"]))
        return self._coverage(sac)


# ------------------------------------------------------------------------------------------------ acquisition


def _acquire(canvas: Floats, rng: np.random.Generator, scanner: Scanner) -> NDArray[np.uint8]:
    """Turn true signal (2, g, size, size) into what a scanner stores, (g, 2, size, size).

    Each picture has a resolution, a coil profile, a contrast curve, a gain and Rician noise of its own: the
    magnitude of a signal with Gaussian noise in both channels (Gudbjartsson and Patz 1995).
    """
    _, g, size, _ = canvas.shape
    pictures = canvas.swapaxes(0, 1).reshape(2 * g, size, size)
    for picture, sigma in zip(pictures, rng.uniform(*scanner.blur, 2 * g) * size / 96, strict=True):
        gaussian_filter(picture, sigma, output=picture, truncate=3.0)

    def each(low: float, high: float) -> Floats:
        return rng.uniform(low, high, (2 * g, 1, 1)).astype(np.float32)

    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    coil = each(*scanner.coil_side) * x + each(*scanner.coil_back) * y
    coil = coil + each(-0.25, 0.1) * x**2 + each(-0.2, 0.2) * x * y
    signal = np.maximum(pictures, 0) * (1.0 + coil) * each(*scanner.gain)
    noise = each(*scanner.noise) * rng.standard_normal((2, 2 * g, size, size), dtype=np.float32)
    magnitude = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
    curve = each(*scanner.curve)
    magnitude = np.minimum(magnitude, 1.0)
    magnitude += curve * magnitude * (1.0 - magnitude)
    stored: NDArray[np.uint8] = np.rint(magnitude * 255.0).astype(np.uint8)
    return stored.reshape(g, 2, size, size)
