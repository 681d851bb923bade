import pytest
from cml.eval import entropy_bench
from helpers import photo

from cml.errors import CmlError

POINT = "rgb_f8c48:step=0.3"


def test_every_coder_is_measured_against_order_0():
    table = entropy_bench.entropy_table([photo((64, 96), 3, seed) for seed in range(2)], [POINT], repeats=1)
    rows = table.set_index("coder")
    assert {"order 0", "zstd", "rans", "ctx", "webp", "png"} <= set(rows.index)
    bpp = rows["bpp"].to_dict()
    for name, saving in rows["saving"].to_dict().items():
        assert saving == pytest.approx(100 * (1 - bpp[name] / bpp["order 0"])), name
    assert (rows.drop("order 0")[["encode", "decode"]].to_numpy() > 0).all()
    assert bpp["ctx"] < bpp["zstd"]
    assert POINT in entropy_bench.markdown(table, 2)


def test_what_cannot_be_measured_gets_a_sentence():
    with pytest.raises(CmlError, match="no pictures"):
        entropy_bench.entropy_table([], [POINT])
    with pytest.raises(CmlError, match="no symbols"):
        entropy_bench.entropy_table([photo((16, 16))], ["jpeg"])
