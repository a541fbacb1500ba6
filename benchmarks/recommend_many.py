"""Lists for 100,000 histories in one call of `Recommender.recommend`, and the cost of one history.

.venv/bin/kerasrec demo --preset fast --out build/models
.venv/bin/python benchmarks/recommend_many.py --model build/models/courses
"""

import argparse
import time

import numpy as np

import kerasrec


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=20)
    options = parser.parse_args()
    recommender = kerasrec.Recommender.load(options.model)
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.08, options.users), 200)
    histories = [list(rng.choice(recommender.items.ids, n)) for n in lengths]
    recommender.recommend(histories[:600], k=options.k)  # warm
    started = time.perf_counter()
    table = recommender.recommend(histories, k=options.k)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for history in histories[:50]:
        recommender.recommend([history], k=options.k)
    single = (time.perf_counter() - started) / 50
    print(
        f"{options.users} histories (mean {lengths.mean():.1f} events), {len(recommender.items)} "
        f"items, k={options.k}: {len(table)} rows in {seconds:.1f} s "
        f"({options.users / seconds:.0f} lists/s); one at a time {single * 1000:.1f} ms each"
    )


if __name__ == "__main__":
    main()
