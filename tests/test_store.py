"""What is put into the store comes out the same, a kill leaves no half shard, and writers do not disturb each other."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import hypothesis.extra.numpy as some
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark import store as module
from benchmark.result import write_atomically
from benchmark.store import ArrayStore

ARRAYS = {
    "scalar": np.array(3.5),
    "vector": np.arange(7, dtype=np.int64),
    "odd bytes": np.arange(3, dtype=np.uint8),
    "picture": np.arange(60, dtype=np.uint8).reshape(4, 5, 3),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "strided": np.arange(12, dtype=np.int16)[::3],
    "big-endian": np.array([1, 256], dtype=">i2"),
    "booleans": np.array([[True, False]]),
    "complex": np.array([1 + 2j, 3 - 4j]),
    "words": np.array(["ab", "ç"]),
    "not finite": np.array([np.nan, np.inf, -0.0], dtype=np.float16),
    "no rows": np.zeros((0, 5), dtype=np.float64),
    "no columns": np.zeros((3, 0), dtype=np.uint8),
}


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_arrays_of_one_shard_come_back_to_the_byte(tmp_path):
    ArrayStore(tmp_path).put(ARRAYS)
    store = ArrayStore(tmp_path)
    for key, array in ARRAYS.items():
        assert_same(store.get(key), array)


@pytest.mark.parametrize("key", ARRAYS)
def test_an_array_alone_in_its_shard_comes_back_to_the_byte(tmp_path, key):
    ArrayStore(tmp_path).put({key: ARRAYS[key]})
    assert_same(ArrayStore(tmp_path).get(key), ARRAYS[key])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.dictionaries(
        st.text(min_size=1),
        some.arrays(some.scalar_dtypes(), some.array_shapes(min_dims=0, min_side=0, max_side=4)),
        min_size=1,
        max_size=4,
    )
)
def test_any_arrays_under_any_keys_come_back(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("store")
    ArrayStore(folder).put(arrays)
    store = ArrayStore(folder)
    assert store.missing(arrays) == []
    for key, array in arrays.items():
        assert_same(store.get(key), np.asarray(array, order="C"))


def test_missing_gives_distinct_keys_in_order_of_first_appearance(tmp_path):
    store = ArrayStore(tmp_path)
    store.put({"b": np.zeros(1), "d": np.zeros(1)})
    assert store.missing(["c", "b", "a", "c", "d", "a"]) == ["c", "a"]


def test_a_store_whose_folder_does_not_exist_misses_everything(tmp_path):
    store = ArrayStore(tmp_path / "none" / "yet")
    assert store.missing(["a"]) == ["a"]
    with pytest.raises(KeyError, match="a"):
        store.get("a")
    store.put({})
    assert not store.folder.exists()


def test_stored_arrays_are_read_only(tmp_path):
    store = ArrayStore(tmp_path)
    store.put({"a": np.zeros(3)})
    with pytest.raises(ValueError, match="read-only"):
        store.get("a")[0] = 1


@pytest.mark.parametrize("array", [np.array([{}, None]), np.zeros(2, dtype=[("x", np.int8), ("y", np.float32)])])
def test_arrays_whose_bytes_say_nothing_are_refused(tmp_path, array):
    with pytest.raises(TypeError, match="cannot be stored"):
        ArrayStore(tmp_path).put({"a": array})
    assert list(tmp_path.iterdir()) == []


def test_stack_is_one_array_in_the_order_asked_for(tmp_path):
    store = ArrayStore(tmp_path)
    store.put({"a": np.array([1, 2])})
    store.put({"b": np.array([3, 4])})
    assert store.stack(["b", "a", "b"]).tolist() == [[3, 4], [1, 2], [3, 4]]


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_kill_before_a_shard_is_whole_leaves_no_shard(tmp_path, monkeypatch, allowed):
    written = []

    def killed(path, data):
        if len(written) == allowed:
            raise KeyboardInterrupt
        written.append(path.suffix)
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            ArrayStore(tmp_path).put({"a": np.arange(3)})
    assert written == [".bin"][:allowed]
    store = ArrayStore(tmp_path)
    assert store.missing(["a"]) == ["a"]
    store.put({"a": np.arange(4)})
    assert ArrayStore(tmp_path).get("a").tolist() == [0, 1, 2, 3]


def test_half_written_temporary_files_are_not_read(tmp_path):
    (tmp_path / ".0123.json.abc.part").write_text('{"a": [0, [')
    (tmp_path / ".0123.bin.abc.part").write_bytes(b"\0")
    assert ArrayStore(tmp_path).missing(["a"]) == ["a"]


def test_two_writers_see_each_other_and_a_key_written_twice_is_the_same(tmp_path):
    one, two = ArrayStore(tmp_path), ArrayStore(tmp_path)
    assert one.missing(["a", "b"]) == two.missing(["a", "b"]) == ["a", "b"]
    one.put({"a": np.arange(3), "both": np.arange(5)})
    two.put({"b": np.arange(4), "both": np.arange(5)})
    for store in (one, two, ArrayStore(tmp_path)):
        assert [len(store.get(key)) for key in ("a", "b", "both")] == [3, 4, 5]


def test_many_threads_write_and_read_one_folder(tmp_path):
    def work(writer):
        store = ArrayStore(tmp_path)
        for i in range(8):
            store.put({f"{writer}-{i}": np.full(i + 1, writer)})
        return [store.get(f"{writer}-{i}").tolist() for i in range(8)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [[[w] * (i + 1) for i in range(8)] for w in range(6)]
    assert ArrayStore(tmp_path).missing(f"{w}-{i}" for w in range(6) for i in range(8)) == []


def test_a_key_is_found_while_another_thread_still_reads_its_index(tmp_path, monkeypatch):
    ArrayStore(tmp_path).put({"a": np.arange(3)})
    store = ArrayStore(tmp_path)
    found = []
    other = threading.Thread(target=lambda: found.append(store.get("a").tolist()))
    loads = json.loads

    def slow(text):
        if not other.ident:
            other.start()
            other.join()
        return loads(text)

    monkeypatch.setattr(module.json, "loads", slow)
    store.refresh()
    assert found == [[0, 1, 2]]


def test_many_shards_do_not_use_up_file_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_SHARDS", 3)
    store = ArrayStore(tmp_path)
    for i in range(40):
        store.put({str(i): np.full(4, i)})
    before = psutil.Process().num_fds()
    first = store.get("0")
    assert [store.get(str(i))[0] for i in range(40)] == list(range(40))
    assert psutil.Process().num_fds() - before <= 4
    assert first.tolist() == [0] * 4
