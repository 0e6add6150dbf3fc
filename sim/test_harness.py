# SPDX-License-Identifier: BSD-2-Clause
"""The bench itself, on a small design that copies memory: bandwidth, latency, stalls, checks."""

from pathlib import Path

import numpy as np
import pytest

from sim.build import PortError, bench, binding
from sim.session import Session, SimulationFault
from sim.streams import CYCLE, Field, Stream

VERILOG = Path(__file__).parent / "dummy.v"
STREAM = Stream("copy", "tap_valid", (Field("tap_data", 27, signed=True, lanes=4),))
#: With times: whenever a beat comes, and whenever a handshake is not as it was.
TIMED = Stream("beats", "m_axi_gmem0_rvalid", (Field("tap_data", 27, signed=True, lanes=4),),
               timed=True)
CHANGES = Stream("changes", None, (Field("m_axi_gmem0_rvalid", 1), Field("m_axi_gmem0_rready", 1)),
                 timed=True)
SOURCE, TARGET, BEATS = 0x10000, 0x80000, 320
CONTROL, SOURCE_REG, TARGET_REG, BEATS_REG, FAULT_REG, ERRORS_REG = 0, 0x10, 0x18, 0x20, 0x28, 0x30
CROSS, RETRACT, EARLY_LAST, LONG = 1, 2, 3, 4


@pytest.fixture(scope="session")
def program() -> Path:
    return bench(VERILOG, top="dummy", recorded=[STREAM, TIMED, CHANGES])


def words() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << 63, BEATS, np.uint64)


def prepare(session: Session, *, bytes_per_cycle: float = 64, latency: int = 100, stalls: int = 0,
            fault: int = 0) -> None:
    session.memory(SOURCE, 8 * BEATS)
    session.memory(TARGET, 8 * BEATS, writable=True)
    session.load(words().tobytes(), SOURCE)
    session.bus(bytes_per_cycle=bytes_per_cycle, latency=latency, stalls=stalls)
    for register, value in ((SOURCE_REG, SOURCE), (TARGET_REG, TARGET), (BEATS_REG, BEATS),
                            (FAULT_REG, fault)):
        session.write(register, value)
    session.clear()
    session.write(CONTROL, 1)


def finish(session: Session, name: str = "") -> np.ndarray:
    session.interrupt(100_000)
    session.quiet()
    session.count(name)
    session.read(ERRORS_REG, f"{name}errors")
    session.dump(f"copy{name}", TARGET, 8 * BEATS)
    session.run()
    return np.frombuffer(session.dumped(f"copy{name}"), np.uint64)


def copied(program: Path, **bus: float) -> tuple[np.ndarray, dict[str, int]]:
    with Session(program) as session:
        prepare(session, **bus)
        return finish(session), session.values


def test_copy(program: Path) -> None:
    data, values = copied(program)
    np.testing.assert_array_equal(data, words() + 1)
    assert values["bytes_read"] == values["bytes_written"] == 8 * BEATS
    assert values["errors"] == 0


@pytest.mark.parametrize("bytes_per_cycle", [2, 5.5, 8, 64])
def test_bandwidth_is_shared_and_not_exceeded(program: Path, bytes_per_cycle: float) -> None:
    _, values = copied(program, bytes_per_cycle=bytes_per_cycle, latency=10)
    # Reads and writes overlap; a port moves 8 bytes each way in a cycle at most.
    ideal = max(2 * 8 * BEATS / bytes_per_cycle, BEATS)
    assert ideal <= values["cycles"] <= 1.05 * ideal + 100


def test_latency(program: Path) -> None:
    cycles = [copied(program, latency=latency)[1]["cycles"] for latency in (20, 120)]
    # One latency to the first data and one from the last data to the last answer.
    assert cycles[1] - cycles[0] == 200


@pytest.mark.parametrize("stalls", [1, 2, 3])
def test_same_bytes_under_stalls(program: Path, stalls: int) -> None:
    plain = copied(program)[1]
    data, values = copied(program, stalls=stalls)
    np.testing.assert_array_equal(data, words() + 1)
    assert values["cycles"] > 1.2 * plain["cycles"]
    assert copied(program, stalls=stalls)[1] == values, "a seed must give the same run"


@pytest.mark.parametrize("fault, message", [
    (CROSS, r"m_axi_gmem0 AR: 128 bytes at 0x10fc0 cross a 4 KiB boundary"),
    (RETRACT, r"m_axi_gmem0 AR: valid was taken back before ready"),
    (EARLY_LAST, r"m_axi_gmem0 W: last is 1 with 9 beats to come"),
    (LONG, r"m_axi_gmem0 AR: 32 beats in a burst, at most 16"),
])
def test_broken_protocol_is_seen(program: Path, fault: int, message: str) -> None:
    with Session(program) as session, pytest.raises(SimulationFault, match=message):
        prepare(session, fault=fault, stalls=1)
        finish(session)


def test_access_outside_the_windows_is_seen(program: Path) -> None:
    with Session(program) as session, pytest.raises(
            SimulationFault, match="a read of 128 bytes at 0x10a00 lies outside"):
        prepare(session)
        session.write(BEATS_REG, BEATS + 16)
        finish(session)


@pytest.mark.parametrize("address, errors", [(SOURCE + 256, 1), (TARGET + 256, 1)])
@pytest.mark.parametrize("response", ["slverr", "decerr"])
def test_bus_errors(program: Path, address: int, errors: int, response: str) -> None:
    with Session(program) as session:
        prepare(session)
        session.error(address, response)
        finish(session)
        assert session.values["errors"] == errors


def test_host_accesses_are_counted(program: Path) -> None:
    with Session(program) as session:
        prepare(session)
        session.count("start.")
        session.read(ERRORS_REG, "errors")
        session.load(b"1234", SOURCE)
        session.fill(SOURCE, 8, 0)
        session.count("more.")
        session.clear()
        session.interrupt(100_000)
        session.count("none.")
        session.run()
        counts = [session.values[f"{name}.host_accesses"] for name in ("start", "more", "none")]
        assert counts == [1, 4, 0]


def test_calls_in_the_run(program: Path) -> None:
    with Session(program) as session:
        seen = []
        session.read(ERRORS_REG, "before")
        session.call(lambda: seen.append(dict(session.values)))
        session.read(ERRORS_REG, "after")
        session.call(lambda: seen.append(dict(session.values)))
        session.run()
        assert seen == [{"before": 0}, {"before": 0, "after": 0}]


def test_second_run_after_reset(program: Path) -> None:
    with Session(program) as session:
        prepare(session)
        session.wait(150)
        session.reset()
        session.quiet()
        for register, value in ((SOURCE_REG, SOURCE), (TARGET_REG, TARGET), (BEATS_REG, BEATS)):
            session.write(register, value)
        session.write(CONTROL, 1)
        np.testing.assert_array_equal(finish(session), words() + 1)


def test_no_interrupt_is_a_fault(program: Path) -> None:
    with Session(program) as session, pytest.raises(
            SimulationFault, match="no interrupt in 50 cycles"):
        prepare(session)
        session.interrupt(50)
        session.run()


def test_interruption_leaves_nothing(program: Path) -> None:
    def interrupted(cycles: int) -> None:
        raise KeyboardInterrupt

    with Session(program) as session, pytest.raises(KeyboardInterrupt):
        session.wait(1 << 40)
        session.run(interrupted)
    assert not session.folder.exists()


def test_recording(program: Path) -> None:
    with Session(program) as session:
        prepare(session)
        folder = session.trace("copy")
        finish(session)
        data = STREAM.read(folder)["tap_data"]
    raw = (words() & np.uint64((1 << 27) - 1)).astype(np.int64)
    low, high = (1 << 26) - 1, 1 << 27
    signed = np.where(raw > low, raw - high, raw)
    np.testing.assert_array_equal(data[:, 0], np.arange(BEATS))
    np.testing.assert_array_equal(data[:, 1], 5)
    np.testing.assert_array_equal(data[:, 2], ~signed)
    np.testing.assert_array_equal(data[:, 3], signed)


def test_recording_with_times(program: Path) -> None:
    with Session(program) as session:
        prepare(session)
        folder = session.trace("copy", timed=True)
        finish(session)
        plain, beats, changes = (stream.read(folder) for stream in (STREAM, TIMED, CHANGES))
    np.testing.assert_array_equal(beats["tap_data"], plain["tap_data"])
    assert len(beats[CYCLE]) == BEATS and (np.diff(beats[CYCLE]) > 0).all()
    # In every cycle valid is what the last change has made it.
    valid = changes["m_axi_gmem0_rvalid"]
    assert (np.diff(valid) != 0).all() and (changes["m_axi_gmem0_rready"] == 1).all()
    cycles = np.arange(changes[CYCLE][0], changes[CYCLE][-1] + 1)
    now = valid[np.searchsorted(changes[CYCLE], cycles, side="right") - 1]
    np.testing.assert_array_equal(cycles[now == 1], beats[CYCLE])


def test_times_are_recorded_only_if_asked_for(program: Path) -> None:
    with Session(program) as session:
        prepare(session)
        folder = session.trace("copy")
        finish(session)
        assert [path.name for path in folder.iterdir()] == ["copy.bin"]


def test_block_that_is_no_module() -> None:
    with pytest.raises(PortError, match="the Verilog has no module nothing"):
        bench(VERILOG, top="dummy", recorded=[STREAM], blocks=["nothing"])


@pytest.mark.parametrize("change, message", [
    (("input ap_rst_n, ", ""), "has no port ap_rst_n"),
    (("wire [107:0] tap_data", "wire [106:0] tap_data"), "tap_data .* has 107 bits, must have 108"),
    (("wire tap_valid", "wire tap_v"), "tap_valid .* has 0 bits, must have 1"),
])
def test_binding_names_what_is_missing(change: tuple[str, str], message: str) -> None:
    with pytest.raises(PortError, match=message):
        binding(VERILOG.read_text().replace(*change), "dummy", [STREAM])
