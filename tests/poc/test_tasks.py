"""Tasks: a user's file, the built-in ones, splits, and where data come from. Oracle: scikit-learn's own arrays."""

from __future__ import annotations

import functools
import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets

from sabun.errors import MissingExtraError, StudyError
from sabun.poc.tasks import builtin as builtin_tasks
from sabun.poc.tasks import data
from sabun.poc.tasks import loading as tasks
from sabun.poc.tasks.data import Source, fetch
from sabun.poc.tasks.function_task import FunctionTask
from sabun.poc.tasks.loading import load
from sabun.poc.tasks.task import Scores, Seeds, Session

from .helpers import TINY, task


def splits(name: str, **options: int) -> dict[str, tuple[torch.Tensor, ...]]:
    loaded = load(name, options)
    assert isinstance(loaded, FunctionTask)
    return {split: held.tensors for split, held in loaded.splits.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "count", "sizes"),
    [
        ("digits", 1797, (1077, 360, 360)),
        ("digits-cnn", 1797, (1077, 360, 360)),
        ("breast-cancer", 569, (341, 114, 114)),
        ("diabetes", 442, (264, 89, 89)),
    ],
)
def test_splits_are_fixed_disjoint_and_complete(name: str, count: int, sizes: tuple[int, ...]) -> None:
    first, second = splits(name), splits(name)
    assert tuple(len(first[split][0]) for split in ("train", "validation", "test")) == sizes
    assert sum(sizes) == count
    for split in first:
        assert all(torch.equal(a, b) for a, b in zip(first[split], second[split], strict=True))
    rows = torch.cat([x.flatten(1) for x, _ in first.values()])
    assert rows.dtype == torch.float32
    assert torch.isfinite(rows).all()
    train = first["train"][0].flatten(1)
    assert train.mean(dim=0).abs().max() < 1e-5  # standardised by the training data's own statistics
    spread = train.std(dim=0, unbiased=False)
    assert ((spread - 1).abs() < 1e-4).logical_or(spread == 0).all()


def test_digits_are_scikit_learns_images_each_used_once() -> None:
    x, y = datasets.load_digits(return_X_y=True)
    held = splits("digits")
    labels = torch.cat([labels for _, labels in held.values()])
    assert torch.equal(labels.bincount(), torch.tensor(np.bincount(y)))
    for images, labels in held.values():  # stratified: every digit has its share in every split
        assert (labels.bincount() / len(images) - torch.tensor(np.bincount(y)) / len(x)).abs().max() < 0.01


@pytest.mark.parametrize("name", ["digits", "digits-cnn", "breast-cancer", "diabetes"])
def test_a_session_is_a_function_of_its_seeds(name: str) -> None:
    loaded = load(name, {})
    one, two, other = (loaded.session(Seeds(init, 5)) for init in (3, 3, 4))
    assert one.loss(0).item() == two.loss(0).item() != other.loss(0).item()
    assert one.loss(0).item() == one.loss(0).item()  # the same batch whenever it is asked
    assert one.loss(7).item() != one.loss(0).item()
    assert one.loss(0).item() == two.loss(0).item()  # also after having gone elsewhere
    assert loaded.session(Seeds(3, 6)).loss(0).item() != one.loss(0).item()
    scores = one.evaluate("validation")
    assert scores == two.evaluate("validation")
    assert scores.metric is not None


def test_scores_are_means_over_all_examples_also_in_uneven_chunks() -> None:
    loaded = load("digits", {})
    assert isinstance(loaded, FunctionTask)
    session = loaded.session(Seeds(0, 0))
    whole = session.evaluate("test")
    x, y = splits("digits")["test"]
    logits = session.model(x).detach().double()
    loss = -logits.log_softmax(dim=1)[torch.arange(len(y)), y].mean()
    assert whole.loss == pytest.approx(float(loss), rel=1e-5)
    assert whole.metric == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    loaded.evaluation_batch_size = 7
    assert session.evaluate("test").loss == pytest.approx(whole.loss, rel=1e-5)
    assert session.model.training  # put back


def test_datasets_give_what_tensors_give() -> None:
    tensors, items = (load(task(name)).session(Seeds(1, 2)) for name in ("Tiny", "Datasets"))
    assert [tensors.loss(step).item() for step in (0, 5, 20)] == [items.loss(step).item() for step in (0, 5, 20)]
    assert tensors.evaluate("test") == items.evaluate("test")


class Own:
    """A task that makes its own sessions."""

    def session(self, seeds: Seeds) -> Session:
        class Mine:
            model = torch.nn.Linear(1, 1)
            steps_per_epoch = 3

            def loss(self, step: int) -> torch.Tensor:
                return self.model(torch.ones(1, 1)).sum()

            def evaluate(self, split: tasks.Split) -> Scores:
                return Scores(float(seeds.init), None)

        return Mine()


def test_a_task_of_sessions(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"import sys\nOwn = sys.modules[{__name__!r}].Own\n")
    found = load(f"{file}:Own")
    assert isinstance(found, Own)
    assert found.session(Seeds(4, 0)).evaluate("test") == Scores(4.0, None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "unknown task 'digit'.*Did you mean 'digits'"),
        (f"{TINY}:Tny", "Did you mean 'Tiny'"),
        ("missing.py:Task", "there is no task file missing.py"),
        (task("NoLoss"), r"has no loss\(\)"),
        (task("Empty"), "'test' is empty"),
        (task("Unequal"), "'test' differ in length"),
    ],
)
def test_a_wrong_task_is_explained(name: str, words: str) -> None:
    with pytest.raises(StudyError, match=words) as caught:
        load(name).session(Seeds(0, 0))
    assert caught.value.fix


def test_a_file_that_cannot_be_imported_is_explained(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(StudyError, match="cannot be imported: ModuleNotFoundError"):
        load(f"{tmp_path / 'broken.py'}:Task")


def test_a_changed_file_is_another_task(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("class Task: pass\n")
    before = tasks.provenance(f"{file}:Task", None)
    file.write_text("class Task: batch_size = 2\n")
    assert tasks.provenance(f"{file}:Task", None) != before
    assert tasks.provenance("digits", load("digits")) is None


def test_an_edited_file_is_imported_again(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    for loss in ("1.0", "2.0"):
        file.write_text(
            "class Task:\n"
            "    def model(self): ...\n"
            "    def data(self): ...\n"
            f"    def loss(self, model, batch): return {loss}\n"
        )
        assert load(f"{file}:Task").source.loss(None, None) == float(loss)


def test_the_language_model_reads_text_once_an_epoch_and_predicts_the_next_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = bytes(range(32, 97))
    text = b"".join(letters[i % 65 : i % 65 + 1] for i in range(0, 3 * 4001, 3))
    (tmp_path / "tinyshakespeare.txt").write_bytes(text)
    monkeypatch.setenv("SABUN_DATA", str(tmp_path))
    source = Source("tinyshakespeare.txt", "http://x", "sha256", hashlib.sha256(text).hexdigest())
    monkeypatch.setattr(builtin_tasks, "_SHAKESPEARE", source)
    held = splits("charlm", context=16, chars=4000)
    for x, y in held.values():
        assert torch.equal((x + 3) % 65, y)
    assert held["train"][0].flatten().tolist() == [(3 * i) % 65 for i in range(len(held["train"][0]) * 16)]
    session = load("charlm", {"context": 16, "chars": 4000, "width": 16}).session(Seeds(0, 0))
    assert session.loss(0).item() == pytest.approx(np.log(65), abs=0.1)  # an untrained model knows nothing
    x = held["test"][0][:1]
    later = x.clone()
    later[0, 10:] = 0
    a, b = session.model(x), session.model(later)
    assert torch.allclose(a[0, :10], b[0, :10])  # causal: the future does not show
    with pytest.raises(StudyError, match="width 30 is not a multiple of heads 4"):
        load("charlm", {"width": 30})


def test_images_from_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 120, dtype=np.uint8)
    np.savez(tmp_path / "cifar10_20k.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    monkeypatch.setenv("SABUN_DATA", str(tmp_path))
    held = splits("cifar10", images=80)
    assert [len(held[split][0]) for split in ("train", "validation", "test")] == [72, 8, 20]
    assert np.array_equal(held["test"][0].numpy(), x[100:].transpose(0, 3, 1, 2))
    assert np.array_equal(held["validation"][1].numpy(), y[:8])
    session = load("cifar10", {"images": 80, "width": 4, "batch_size": 8}).session(Seeds(0, 0))
    session.loss(0).backward()
    assert all(p.grad is not None for p in session.model.parameters())
    assert "cifar10_20k.npz" in str(tasks.provenance("cifar10", load("cifar10")))


@pytest.fixture
def asked() -> list[str]:
    """What was asked of ``server``."""
    return []


@pytest.fixture
def server(tmp_path: Path, asked: list[str]) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.bin").write_bytes(b"data" * 1000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            asked.append(self.path)
            if not self.path.startswith("/broken"):
                super().do_GET()
                return
            self.send_response(200)  # promises more than it sends, and hangs up
            self.send_header("Content-Length", "4000")
            self.end_headers()
            self.wfile.write(b"data" * 100)

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/file.bin"
        running.shutdown()


def test_processes_that_need_the_same_file_at_the_same_time_download_it_once(
    server: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SABUN_DATA", raising=False)
    source = Source("file.bin", server, "sha256", hashlib.sha256(b"data" * 1000).hexdigest())
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch(source), range(4)))
    assert len(paths) == len(asked) == 1


def test_downloads_are_verified_cached_and_explained(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SABUN_DATA", raising=False)
    checksum = hashlib.sha256(b"data" * 1000).hexdigest()
    good = Source("file.bin", server, "sha256", checksum)
    path = fetch(good)
    assert path.read_bytes() == b"data" * 1000
    gone = Source("file.bin", "http://127.0.0.1:9/file.bin", "sha256", checksum)
    assert fetch(gone) == path  # from the cache
    path.write_bytes(b"rotten")
    with pytest.raises(StudyError, match=r"cannot download.*SABUN_DATA"):
        fetch(gone)  # what rotted is not used
    assert fetch(good).read_bytes() == b"data" * 1000  # but replaced, where that can be
    path.unlink()
    with pytest.raises(StudyError, match="has a wrong checksum"):
        fetch(Source("file.bin", server, "md5", "0" * 32))
    with pytest.raises(StudyError, match=r"cannot download .*/broken/file.bin: .*SABUN_DATA"):
        fetch(Source("file.bin", server.replace("/file.bin", "/broken/file.bin"), "sha256", checksum))
    with pytest.raises(StudyError, match=r"cannot download .*404"):
        fetch(Source("file.bin", f"{server}.gone", "sha256", checksum))
    kept = {entry.name for entry in (tmp_path / "cache" / "sabun").iterdir()}
    assert kept == {"file.bin.lock"}  # nothing bad is kept
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pooch", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'sabun\[poc\]', or put file.bin into a directory"):
            fetch(good)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "file.bin").write_bytes(b"other")
    monkeypatch.setenv("SABUN_DATA", str(tmp_path / "wrong"))
    with pytest.raises(StudyError, match=r"wrong/file.bin has a wrong checksum.*Replace it"):
        fetch(good)
    monkeypatch.setenv("SABUN_DATA", str(tmp_path / "served"))
    assert fetch(gone) == tmp_path / "served" / "file.bin"
    monkeypatch.setenv("SABUN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(StudyError, match="SABUN_DATA is"):
        data.provided("x")
