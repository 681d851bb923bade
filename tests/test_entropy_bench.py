import pytest
from helpers import photo

from cml.errors import CmlError
from cml.eval import entropy_bench

POINT = "rgb_f8c48:step=0.3"


def test_every_coder_is_measured_against_order_0():
    table = entropy_bench.entropy_table([photo((64, 96), 3, seed) for seed in range(2)], [POINT], repeats=1)
    rows = table.set_index("coder")
    assert {"order 0", "zstd", "rans", "ctx", "webp", "png"} <= set(rows.index)
    assert rows["saving"]["order 0"] == 0
    for name, row in rows.iterrows():
        assert row["saving"] == pytest.approx(100 * (1 - row["bpp"] / rows["bpp"]["order 0"])), name
    assert (rows.drop("order 0")[["encode", "decode"]] > 0).all().all()
    assert rows["bpp"]["ctx"] < rows["bpp"]["zstd"]
    assert POINT in entropy_bench.markdown(table, 2)


def test_what_cannot_be_measured_gets_a_sentence():
    with pytest.raises(CmlError, match="no pictures"):
        entropy_bench.entropy_table([], [POINT])
    with pytest.raises(CmlError, match="no symbols"):
        entropy_bench.entropy_table([photo((16, 16))], ["jpeg"])
