"""What the authors of WaLLoC and LiVeAction print for Kodak, to stand beside our measurements, never mixed with them.

Source: github.com/UT-SysML/liveaction, eval/kodak.ipynb (mean over the 24 pictures). LPIPS and DISTS are -10 log10 of
the distance, SSIM is piq's `SSIMLoss`. Known problems of this table:

- The JPEG 2000 rows are Pillow's defaults, which transform no colours (`mct=0`, reversible 5/3): with them we get their
  25.32, 29.19, 32.00 and 37.16 dB to the last digit, while the same library with its colour transform and the 9/7
  wavelet, as `cml` uses it, reaches 27.5, 33.1, 37.1 and 44.2 dB at the same rates. Every printed BD-rate against
  JPEG 2000 is against those weak rows.
- The SSIM of Balle 2018 and of the entropy-model variant of f16c48 was computed in another way than that of the other
  rows (0.914 at 37.95 dB beside 0.986 at 38.78 dB): it is left out here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """One row: bits a pixel, dB, and measures that are None where none was printed or the number is not usable."""

    model: str
    point: str
    bpp: float
    psnr: float
    lpips_db: float | None = None
    dists_db: float | None = None
    ssim: float | None = None


KODAK = (
    Printed("LiVeAction", "f16c12, half resolution", 0.0428, 24.23, 2.76, 6.30, 0.7194),
    Printed("LiVeAction", "f16c12", 0.1496, 27.04, 4.22, 8.87, 0.8600),
    Printed("LiVeAction", "f16c12 + FLUX", 0.1507, 23.25, 4.53, 9.48, 0.6429),
    Printed("LiVeAction", "f16c48, lambda 0.1", 0.3992, 29.84, 5.69, 12.07, 0.9303),
    Printed("LiVeAction", "f16c48", 0.6606, 31.17, 6.57, 13.67, 0.9571),
    Printed("LiVeAction", "f16c48, second version", 0.6921, 31.25, 6.58, 13.74, 0.9582),
    Printed("LiVeAction", "f16c48, entropy model", 0.8334, 31.19, 6.86, 14.12),
    Printed("LiVeAction", "f8c48", 3.708, 39.90, 14.90, 24.24, 0.9959),
    Printed("LiVeAction", "f16c192", 3.913, 40.29, 15.29, 25.53, 0.9962),
    Printed("WaLLoC", "f8c12", 0.6171, 30.56, 6.51, 13.24, 0.9501),
    Printed("WaLLoC", "f8c48", 2.5436, 37.34, 11.67, 18.29, 0.9873),
    Printed("AVIF", "quality 1", 0.0419, 24.46, 2.41, 5.78, 0.7162),
    Printed("AVIF", "quality 5", 0.0615, 25.45, 2.73, 6.33, 0.7629),
    Printed("AVIF", "quality 10", 0.0916, 26.53, 3.11, 6.99, 0.8080),
    Printed("AVIF", "quality 25", 0.2316, 29.52, 4.42, 9.12, 0.9007),
    Printed("AVIF", "quality 50", 0.6838, 34.44, 7.11, 12.99, 0.9657),
    Printed("AVIF", "quality 75", 1.455, 38.78, 10.14, 17.32, 0.9856),
    Printed("AVIF", "quality 90", 2.710, 41.99, 14.77, 22.46, 0.9932),
    Printed("JPEG 2000, no colour transform", "400:1", 0.0597, 23.40, 2.14, 5.15, 0.6378),
    Printed("JPEG 2000, no colour transform", "250:1", 0.0957, 24.35),
    Printed("JPEG 2000, no colour transform", "160:1", 0.1495, 25.32, 2.76, 6.33, 0.7324),
    Printed("JPEG 2000, no colour transform", "125:1", 0.1916, 25.89),
    Printed("JPEG 2000, no colour transform", "100:1", 0.2393, 26.45),
    Printed("JPEG 2000, no colour transform", "70:1", 0.3423, 27.42, 3.54, 7.80, 0.8182),
    Printed("JPEG 2000, no colour transform", "40:1", 0.5985, 29.19, 4.27, 9.18, 0.8712),
    Printed("JPEG 2000, no colour transform", "20:1", 1.198, 32.00, 5.44, 11.36, 0.9262),
    Printed("JPEG 2000, no colour transform", "8:1", 2.998, 37.16, 8.25, 16.14, 0.9746),
    Printed("Balle 2018", "", 0.2110, 27.24, 3.91, 8.00),
    Printed("Balle 2018", "quality 8", 1.663, 37.95, 9.49, 17.53),
    Printed("Cosmos", "DI16", 0.0625, 21.77, 5.38, 10.62, 0.6449),
    Printed("Cosmos", "DI8", 0.2500, 25.92, 7.71, 13.26, 0.8558),
)

KODAK_PICTURES = 24

PRINTED_ANCHOR = "JPEG 2000, no colour transform"
"""The model that the authors' BD-rates are against."""

PRINTED_BD_RATE = {"Cosmos": 49.6, "WaLLoC": -27.6, "LiVeAction": -36.6, "AVIF": -64.0}
"""Their BD-rates of PSNR in percent, against their JPEG 2000."""


def is_kodak(sizes: list[tuple[int, int]]) -> bool:
    """Whether pictures of these (height, width) can be the 24 of Kodak: 18 lie, 6 stand."""
    return sorted(sizes) == [(512, 768)] * 18 + [(768, 512)] * 6
