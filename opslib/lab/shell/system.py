"""Commands on processes, memory, disks and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from opslib.lab.shell import text
from opslib.lab.shell.answer import Answer, Command, failed, options, said
from opslib.lab.shell.box import Box

_GIBI = 2.0**30


def ps(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Processes."""
    user = box.user[1]
    full = "aux" in "".join(words) or "f" in "".join(words)
    began = datetime.fromtimestamp(box.started, UTC).strftime("%H:%M" if box.now - box.started < 86400 else "%b%d")
    rows = ["USER         PID %CPU %MEM      RSS STAT START   TIME COMMAND" if full else "    PID USER     TIME  COMMAND"]
    for one in box.processes:
        seconds = int((box.now - box.started) * box.cores * one.share)
        resident = box.memory_bytes * one.share
        percent = f"{100 * box.cores * one.share:>4.1f} {100 * resident / box.node_memory_bytes:>4.1f}"
        if full:
            rows.append(f"{user:<8} {one.pid:>7} {percent} {resident / 1024:>8.0f} Ssl  {began} {_clock(seconds):>6} {one.command}")
        else:
            rows.append(f"{one.pid:>7} {user:<8} {_clock(seconds)} {one.command}")
    number = 100 + int(box.now) % 30000
    rows.append(f"{user:<8} {number:>7}  0.0  0.0     1204 R+   {began}   0:00 ps" if full else f"{number:>7} {user:<8} 0:00 ps")
    return said("\n".join(rows) + "\n")


def _clock(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"


def top(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Processes by their use, once."""
    memory = box.node_memory_bytes / 2**20
    rows = [
        f"top - {datetime.fromtimestamp(box.now, UTC):%H:%M:%S} up {_up(box)},  0 users,  load average: {_load(box)}",
        f"Tasks: {len(box.processes) + 1:>3} total,   1 running, {len(box.processes):>3} sleeping,   0 stopped,   0 zombie",
        f"MiB Mem : {memory:>9.1f} total, {memory * 0.31:>9.1f} free, {memory * 0.48:>9.1f} used, {memory * 0.21:>9.1f} buff/cache",
        "",
        "    PID USER      PR  NI     RES S  %CPU  %MEM     TIME+ COMMAND",
    ]
    for one in sorted(box.processes, key=lambda one: -one.share):
        seconds, resident = (box.now - box.started) * box.cores * one.share, box.memory_bytes * one.share
        percent = f"{100 * box.cores * one.share:>5.1f} {100 * resident / box.node_memory_bytes:>5.1f}"
        clock = f"{int(seconds // 60):>6}:{seconds % 60:05.2f}"
        rows.append(f"{one.pid:>7} {box.user[1]:<9} 20   0 {resident / 1024:>7.0f} S {percent} {clock} {one.command.split()[0]}")
    return said("\n".join(rows) + "\n")


def _up(box: Box) -> str:
    days, rest = divmod(int(box.now - box.started + 7200), 86400)  # the node's, which was there before
    return f"{days} days, {rest // 3600:>2}:{rest % 3600 // 60:02d}" if days else f"{rest // 3600:>2}:{rest % 3600 // 60:02d}"


def _load(box: Box) -> str:
    return ", ".join(box.files["/proc/loadavg"].split()[:3])


def uptime(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """How long the node is up."""
    return said(f" {datetime.fromtimestamp(box.now, UTC):%H:%M:%S} up {_up(box)},  0 users,  load average: {_load(box)}\n")


def free(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Memory of the node, as containers see it."""
    chosen, _others = options(words)
    unit = next((size for letter, size in (("g", _GIBI), ("m", 2.0**20), ("b", 1.0)) if letter in chosen), 1024.0)
    whole = box.node_memory_bytes

    def shown(amount: float) -> str:
        if "h" in chosen:
            return f"{amount / _GIBI:.1f}Gi" if amount else "0B"
        return f"{amount / unit:.0f}"

    rows = [f"{'':<7}{'total':>12}{'used':>12}{'free':>12}{'shared':>12}{'buff/cache':>12}{'available':>12}"]
    rows.append("Mem:   " + "".join(f"{shown(whole * part):>12}" for part in (1, 0.48, 0.31, 0.001, 0.21, 0.52)))
    rows.append("Swap:  " + f"{shown(0):>12}" * 3)
    return said("\n".join(rows) + "\n")


def _volumes(box: Box) -> list[tuple[str, str, float, float]]:
    """Device, path, size and use in bytes of the file systems."""
    import numpy as np

    from opslib.lab.world import volumes

    found = [("overlay", "/", 80 * _GIBI, 80 * _GIBI * 0.34)]
    for path, name in box.mounts.items():
        volume: Mapping[str, object] = next((one for one in box.pod["spec"].get("volumes") or [] if one["name"] == name), {})
        if "persistentVolumeClaim" in volume and box.world is not None and box.service is not None:
            replica = box.name.rpartition("-")[2]
            place = box.world.places[box.service.name]
            whole = volumes.capacity(box.world, place)
            used = volumes.used(box.world, place, int(replica) if replica.isdigit() else 0, np.array([box.now]))[0]
            found.append(("/dev/nvme1n1", path, whole, float(used)))
        elif "persistentVolumeClaim" in volume or "emptyDir" in volume:
            found.append(("/dev/nvme0n1p1", path, 80 * _GIBI, 80 * _GIBI * 0.34))
        else:
            found.append(("tmpfs", path, min(box.memory_limit, box.node_memory_bytes), 16384.0))
    return found


def df(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """How full the file systems are."""
    chosen, paths = options(words)
    found = _volumes(box)
    for path in paths:
        whole = text.resolve(box, path)
        if whole not in text.folders(box) and whole not in box.files:
            return failed(f"df: {path}: No such file or directory")
    if paths:
        chosen_paths = {max((one[1] for one in found if _is_below(text.resolve(box, path), one[1])), key=len) for path in paths}
        found = [one for one in found if one[1] in chosen_paths]
    rows: list[Sequence[str]] = [("Filesystem", "Size" if "h" in chosen else "1K-blocks", "Used", "Available", "Use%", "Mounted on")]
    for device, path, size, used in found:
        amounts = (size, used, size - used)
        texts = [_human(one) if "h" in chosen else f"{one / 1024:.0f}" for one in amounts]
        rows.append((device, *texts, f"{math.ceil(100 * used / size)}%", path))
    return said("".join(f"{a:<16} {b:>10} {c:>10} {d:>10} {e:>4} {f}\n" for a, b, c, d, e, f in rows))


def _is_below(path: str, folder: str) -> bool:
    return folder == "/" or path == folder or path.startswith(f"{folder}/")


def _human(amount: float) -> str:
    for unit in ("", "K", "M"):
        if amount < 1024:
            return f"{amount:.0f}{unit}" if amount >= 10 or not unit else f"{amount:.1f}{unit}"
        amount = amount / 1024
    return f"{amount:.0f}G" if amount >= 10 else f"{amount:.1f}G"


def du(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """What folders hold."""
    chosen, paths = options(words, "d")
    rows, problems = [], ""
    mounted = {path: used for device, path, _size, used in _volumes(box) if device == "/dev/nvme1n1"}
    for path in paths or ["."]:
        whole = text.resolve(box, path)
        if whole not in text.folders(box) and whole not in box.files:
            problems += f"du: cannot access '{path}': No such file or directory\n"
            continue
        size = float(sum(len(content) for name, content in box.files.items() if _is_below(name, whole)))
        size += sum(used for folder, used in mounted.items() if _is_below(folder, whole))
        rows.append(f"{_human(size) if 'h' in chosen else f'{math.ceil(size / 1024)}'}\t{path}\n")
    return Answer("".join(rows).encode(), problems, 1 if problems else 0)


def mount(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """File systems."""
    kinds = {"overlay": "overlay", "tmpfs": "tmpfs"}
    return said(
        "".join(f"{device} on {path} type {kinds.get(device, 'ext4')} (rw,relatime)\n" for device, path, _size, _used in _volumes(box))
    )


def env(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The environment."""
    if words and "=" not in words[0]:
        return said(f"{box.environment[words[0]]}\n") if words[0] in box.environment else Answer(status=1)
    return said("".join(f"{key}={value}\n" for key, value in box.environment.items() if key != "PWD"))


def id_(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Who one is."""
    number, name = box.user
    if "-u" in words:
        return said(f"{number}\n")
    return said(f"uid={number}({name}) gid={number}({name}) groups={number}({name})\n")


def whoami(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The user's name."""
    return said(f"{box.user[1]}\n")


def hostname(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The pod's name."""
    return said(f"{box.address}\n" if "-i" in words or "-I" in words else f"{box.name}\n")


def uname(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The kernel."""
    parts = {"s": "Linux", "n": box.name, "r": "6.12.46-66.121.amzn2023.x86_64", "m": "x86_64"}
    chosen, _others = options(words)
    letters = [letter for letter in parts if letter in chosen or "a" in chosen] or ["s"]
    return said(" ".join(parts[letter] for letter in letters) + "\n")


def nproc(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The node's processors."""
    return said(f"{box.node_cores}\n")


def date(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The time."""
    chosen, others = options(words)
    zone = timezone(timedelta(hours=9), "JST") if box.environment.get("TZ") == "Asia/Tokyo" and "u" not in chosen else UTC
    now = datetime.fromtimestamp(box.now, zone)
    shape = next((word[1:] for word in others if word.startswith("+")), "")
    if shape:
        return said(now.strftime(shape.replace("%s", str(int(box.now)))) + "\n")
    return said(f"{now:%a %b %e %H:%M:%S} {'JST' if zone is not UTC else 'UTC'} {now:%Y}\n")


def kill(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """End a process; with the first one the container ends."""
    signal = next((word[1:] for word in words if word.startswith("-") and word != "-s"), "TERM").removeprefix("SIG")
    numbers = [word for word in words if not word.startswith("-")]
    if not numbers:
        return failed("kill: you need to specify whom to kill", 1)
    known = {one.pid for one in box.processes}
    for number in numbers:
        if not number.isdigit() or int(number) not in known:
            return failed(f"kill: can't kill pid {number}: No such process")
        if int(number) == 1 and signal in ("TERM", "15", "INT", "2", "QUIT", "3"):  # its own KILL the kernel keeps from the first process
            box.killed = 143
    return Answer()


def jcmd(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Questions to a Java process."""
    java = next((one for one in box.processes if one.command.startswith("java ")), None)
    if java is None:
        return failed("sh: jcmd: not found", 127)
    question = words[1] if len(words) > 1 else ""
    used, limit = box.memory_bytes * 0.72, min(box.memory_limit, box.node_memory_bytes) * 0.75
    answers = {
        "GC.heap_info": f" garbage-first heap   total {limit / 1024:.0f}K, used {min(used, limit) / 1024:.0f}K\n"
        f"  region size 1024K\n Metaspace       used {box.memory_bytes * 0.09 / 1024:.0f}K\n",
        "VM.uptime": f"{box.now - box.started:.3f} s\n",
        "VM.flags": f"-XX:InitialHeapSize={limit / 4:.0f} -XX:MaxHeapSize={limit:.0f} -XX:MaxRAMPercentage=75.000000 -XX:+UseG1GC\n",
        "VM.version": "OpenJDK 64-Bit Server VM version 21.0.8+9-LTS\nJDK 21.0.8\n",
        "Thread.print": "".join(
            f'"http-nio-8080-exec-{number}" #{30 + number} daemon prio=5 waiting on condition\n'
            "   java.lang.Thread.State: TIMED_WAITING (parking)\n"
            f"\tat jdk.internal.misc.Unsafe.park(java.base@21.0.8/Native Method)\n\n"
            for number in range(1, 11)
        ),
    }
    if not words or words == ["-l"]:
        return said(f"{java.pid} {java.command.split()[-1]}\n")
    if words[0] != str(java.pid):
        return failed(f"{words[0]}: no such process")
    if not question or question == "help":
        return said(f"{java.pid}:\nThe following commands are available:\n" + "".join(f"{name}\n" for name in sorted(answers)))
    if question == "GC.heap_dump" and len(words) > 2:
        path = words[-1]
        if path in box.files:
            return said(f"{java.pid}:\nUnable to create {path}: File exists\n")
        # a beginning that tools know, and lines that tell one dump from another
        box.files[path] = "JAVA PROFILE 1.0.2\x00" + "".join(f"{number:08x} {box.name} java.lang.String\n" for number in range(20_000))
        return said(f"{java.pid}:\nDumping heap to {path} ...\nHeap dump file created [{len(box.files[path])} bytes in 0.512 secs]\n")
    if question not in answers:
        return failed(f"{java.pid}:\njava.lang.IllegalArgumentException: Unknown diagnostic command")
    return said(f"{java.pid}:\n{answers[question]}")


def true(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Nothing, well."""
    return Answer()


def false(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Nothing, badly."""
    return Answer(status=1)


COMMANDS: Final[Mapping[str, Command]] = {
    "date": date, "df": df, "du": du, "env": env, "false": false, "free": free, "hostname": hostname, "id": id_, "jcmd": jcmd, "kill": kill,
    "mount": mount, "nproc": nproc, "printenv": env, "ps": ps, "top": top, "true": true, "uname": uname, "uptime": uptime, "whoami": whoami,
}  # fmt: skip
