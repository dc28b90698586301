"""Rows of the probe: the whole command against the same protocol written with scikit-learn's own classes.

Both sides are processes of their own, from the start of Python to the written scores, on one HDF5 store of 25,000
samples that look like the codes of cats and dogs (8x8 of 512, D = 64); about three minutes in all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import Row, alternate, quietly, toolkit

SIZES = {"unlabelled": 5_000, "labelled": 5_000, "test": 15_000}
SIGNAL = 0.6  # share of codes from the class's own half of the codebook: 66 % accuracy at 100 labels
TOLERANCE = (
    1e-6  # of scikit-learn: at its default of 1e-4 a draw is up to 33 test codes of 15,000 away from the solution
)
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # of `logistic`
FEATURES = {"vectors": "all 4,096 numbers of the codes", "mean": "the codes' mean vector of 64 numbers"}


def rows(folder: Path) -> list[Row]:
    """Rows of the probe; no pictures needed."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "codes.h5"
        write_store(store)
        return [*(against_sklearn(store, features) for features in FEATURES), first_number(store)]


def write_store(path: Path) -> None:
    """Codes by chance, in which a class prefers its own half of the codebook; HDF5 where the path has a suffix."""
    import pandas as pd

    from toolkit_datasets.card import load_card
    from toolkit_datasets.codes import CodeWriter, Level, StoreInfo, manifest_of

    level, rng, n = Level("codes", 1, 512, 64, 8, 8), np.random.default_rng(0), sum(SIZES.values())
    is_dog = np.arange(n) % 2
    own = rng.integers(0, 256, (n, 1, 8, 8)) + 256 * is_dog[:, None, None, None]
    codes = np.where(rng.random(own.shape) < SIGNAL, own, rng.integers(0, 512, own.shape)).astype(np.uint16)
    label = np.array(["cat", "dog"])[is_dog]
    ids = [f"{name}.{i}" for i, name in enumerate(label)]
    empty = dict.fromkeys(("slice", "group", "sha256", "part"), "")
    split = rng.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    number = [str(i) for i in range(n)]
    table = pd.DataFrame(
        {"id": ids, "path": ids, "number": number, "label": label, "split": split, "status": "ok", **empty},
        dtype=object,
    )
    info = StoreInfo("vectors", (level,), "ab" * 32, load_card("cats-vs-dogs").model_dump(mode="json"), 0.14)
    book = {"codes": rng.normal(size=(1, 512, 64)).astype(np.float32)}
    form, manifest = "h5" if path.suffix else "npy", manifest_of(table, np.arange(n))
    with CodeWriter(path, format=form, info=info, manifest=manifest, codebooks=book) as writer:
        for start in range(0, n, 1000):
            writer.write({"codes": codes[start : start + 1000]})


def against_sklearn(store: Path, features: str) -> Row:
    """20 draws of 100 labels on 15,000 test codes: `toolkit probe` against `plain`."""
    out, other = store.with_name(f"{features}-probe"), store.with_name(f"{features}.json")
    sets = [word for name in (f"features={features}", "curve=[]") for word in ("--set", f"probe.{name}")]
    ours = [*toolkit("probe", store, "--out", out), *sets]
    timed = alternate(
        lambda: quietly(ours),
        lambda: quietly([sys.executable, __file__, str(store), features, str(other)]),
        repeats=3,
        warm=False,
    )
    mine = json.loads((out / "results.json").read_text())["probe"]
    theirs = json.loads(other.read_text())
    apart = max(abs(a["accuracy"] - b) for a, b in zip(mine["per_draw"], theirs["per_draw"], strict=True))
    bounds = max(abs(a - b) for a, b in zip(mine["accuracy"]["ci95"], theirs["ci95"], strict=True))
    return Row(
        f"probe-{features}",
        "`toolkit probe`, 20 draws of 100 labels, 6 strengths by 5-fold cross-validation, 15,000 test codes, "
        f"intervals; {FEATURES[features]}: against the same with scikit-learn, both as whole programs",
        f"{timed.ours:.1f} s",
        f"{timed.other:.1f} s",
        timed.ratios,
        target=5.0 if features == "vectors" else None,
        note=f"Accuracy {100 * mine['accuracy']['mean']:.2f} %; the largest difference of a draw's accuracy is "
        f"{100 * apart:.3f} points, of an interval's end {100 * bounds:.3f} points.",
    )


def first_number(store: Path) -> Row:
    """The whole default command, with its label curve, until its score stands on the terminal."""
    command = toolkit("probe", store, "--out", store.with_name("default-probe"))
    bare = [sys.executable, "-c", "import h5py, matplotlib.figure, pandas, pydantic, scipy.optimize"]
    timed = alternate(lambda: until(command, "stage 2"), lambda: quietly(bare), repeats=3, warm=False)
    return Row(
        "probe-first-number",
        "`toolkit probe` as it comes (label curve from 10 to 1,000, features chosen in each draw) until its accuracy "
        "is printed, against importing its libraries",
        f"{timed.ours:.1f} s",
        f"{timed.other:.1f} s",
        timed.ratios,
    )


def until(command: list[str], words: str) -> None:
    """Run a command until a line of its output begins with `words`, and then let it end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(words):
                return
        sys.exit(f"{' '.join(command)} printed no line that begins with {words!r}")


def plain(store: Path, features: str, out: Path) -> None:
    """What one writes without the toolkit: h5py, a scaler and a classifier of scikit-learn's, loops over draws.

    Draws, folds and the bootstrap are the toolkit's own functions on both sides, so that the scores can be compared.
    The scaler is fitted once for each draw, as the toolkit's is.
    """
    import h5py
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from stage2_probe.draws import plan
    from stage2_probe.evaluate import draw_seed
    from stage2_probe.intervals import Bootstrap, share_interval
    from stage2_probe.selection import folds
    from stage2_probe.task import task_of

    with h5py.File(store, "r") as file:
        manifest = pd.DataFrame({name: file[name].asstr()[:] for name in ("id", "label", "group", "split")})
        z = file["levels/codes/codebook"][0][file["levels/codes/indices"][:]]  # (N, h, w, D)
    x = z.mean((1, 2)) if features == "mean" else z.transpose(0, 3, 1, 2).reshape(len(z), -1)
    task = task_of(manifest)
    test, width = x[task.test], x.shape[1]
    correct = []
    for number, positions in enumerate(plan(task, labels=100, draws=20, curve=(), seed=0)[100]):
        scaler = StandardScaler().fit(x[task.pool[positions]])
        draw, y = scaler.transform(x[task.pool[positions]]).astype(np.float64), task.pool_y[positions]
        right, loss = np.zeros(len(STRENGTHS)), np.zeros(len(STRENGTHS))
        rng = np.random.default_rng(draw_seed(0, number))
        for training, held_out in folds(y, task.pool_groups[positions], rng):
            for i, C in enumerate(STRENGTHS):
                model = LogisticRegression(C=C / width, tol=TOLERANCE, max_iter=5000).fit(draw[training], y[training])
                shares = model.predict_proba(draw[held_out])
                right[i] += (shares.argmax(1) == y[held_out]).sum()
                loss[i] -= np.log(np.maximum(shares[np.arange(len(held_out)), y[held_out]], 1e-6)).sum()
        best = STRENGTHS[np.lexsort((loss, -right))[0]]
        model = LogisticRegression(C=best / width, tol=TOLERANCE, max_iter=5000).fit(draw, y)
        correct.append(model.predict(scaler.transform(test)) == task.test_y)
    resampled = Bootstrap(task.test_groups, seed=0).resample({"": np.array(correct)})[""]
    per_draw = [float(each.mean()) for each in correct]
    ends = share_interval(resampled, len(np.unique(task.test_groups)))
    out.write_text(json.dumps({"per_draw": per_draw, "ci95": ends}))


if __name__ == "__main__":
    plain(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
