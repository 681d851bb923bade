"""The benchmark of three dimensions at toy size."""

import pandas as pd
from cml.eval import volume_bench


def test_both_paths_are_measured():
    size = (16, 40, 32)
    for path in ("compiled", "reference"):
        found = volume_bench.measure("volume_f8c8", path, size, quick=True)
        assert set(found) == {f"{way}_{key}" for way in ("encode", "decode") for key in ("seconds", "megabytes")}
        assert found["encode_seconds"] > 0 and found["decode_seconds"] > 0


def test_the_report_says_what_was_measured_and_leaves_the_rest_empty(tmp_path):
    rows = [
        {"subject": "volume_f8c8", "path": "compiled", "size": "2x100x100", "voxels": 20_000, "encode_seconds": 0.002,
         "encode_megabytes": 3.0, "decode_seconds": 0.001, "decode_megabytes": 1.5},
        {"subject": "attention", "path": "cml", "size": "2x100x100", "voxels": 20_000, "decode_seconds": 0.02},
    ]  # fmt: skip
    volume_bench.write(pd.DataFrame(rows), tmp_path / "speed")
    text = (tmp_path / "speed.md").read_text()
    assert "| volume_f8c8 | compiled | 2x100x100 | 10 | 20 | 3 | 1.5 |" in text
    assert "| attention | cml | 2x100x100 |  | 1 |  |  |" in text
    assert len(pd.read_csv(tmp_path / "speed.csv")) == 2
