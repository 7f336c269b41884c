#!/usr/bin/env python3
"""pare beside its peers: the same files, the same threads, one run. Called by bench-peers.sh, which gets the peers.

    bench-peers.py BUILD LLAMA_BIN           prints Markdown tables

Environment: SECTIONS (speed batch perplexity load compress), MODELS (smollm2 gemma3 random), ENCODINGS, THREADS, REPS, WINDOWS;
PEERS of the section speed (llama.cpp ik_llama.cpp openvino), IK_LLAMA, OPENVINO, OPENVINO_IR as bench-peers.sh says."""
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

BUILD, PEER = sys.argv[1:3]
PARE = BUILD + "/pare"
CACHE = os.environ.get("PARE_CACHE") or os.path.expanduser("~/.cache/pare")


def words(name, default):
    return os.environ.get(name, default).split()


SECTIONS = words("SECTIONS", "speed batch perplexity load compress")
PEERS = words("PEERS", "llama.cpp ik_llama.cpp")
MODELS = words("MODELS", "smollm2 gemma3 random")
ENCODINGS = words("ENCODINGS", "q4_0 q4_1 q5_0 q8_0 q4_k_m q2_k q3_k q5_k q6_k iq4_xs bf16 f16")
THREADS = words("THREADS", "1 2")
REPS = os.environ.get("REPS", "3")
BATCHES = "1 2 4 8 16 32 64".split()
WINDOWS = os.environ.get("WINDOWS", "16")


def out(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def model(name):
    if name != "random":
        return out("scripts/models.sh", name).stdout.strip().splitlines()[-1]
    path = CACHE + "/models/random-1.1b.gguf"
    if not os.path.exists(path):
        out(BUILD + "/bench/make_llama", model("smollm2"), path)
    return path


def table(*heads):
    print("\n| " + " | ".join(heads) + " |")
    print("|---|---|" + "---:|" * (len(heads) - 2), flush=True)


def row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def measured(command):
    """Seconds of the clock, of the processor, and the largest resident set in MiB of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("failed: " + " ".join(command))
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def pare_speed(file, threads):
    rows = json.loads(out(PARE, "bench", file, "--threads", threads, "--pp", "512", "--tg", "128", "--reps", "1", "--quiet",
                          "--json").stdout)["rows"]
    speed = {r["what"]: r["tokens_per_s"] for r in rows}
    return {**speed, "of peak": rows[0]["share_of_peak"], "of bandwidth": rows[1]["share_of_bandwidth"]}


def llama_speed(folder, file, threads):
    rows = json.loads(out(folder + "/llama-bench", "-m", file, "-t", threads, "-p", "512", "-n", "128", "-r", "1", "-o",
                          "json").stdout)
    return {("prefill" if r["n_prompt"] else "decode"): r["avg_ts"] for r in rows}


def openvino_speed(model, threads):
    return json.loads(out(os.environ["OPENVINO"] + "/bin/python", "scripts/bench-openvino.py", model, threads,
                          "1").stdout.splitlines()[-1])


def exported(name, encoding):
    """The folder of a model that was exported for OpenVINO with weights of as many bits, or one that is not there."""
    bits = re.search(r"q(\d)_", encoding)
    return f"{os.environ.get('OPENVINO_IR', '')}/{name}-int{bits.group(1) if bits else ''}"


def peer_speed(peer, name, encoding, file, threads):
    """None where the peer does not load the file."""
    try:
        if peer == "llama.cpp":
            return llama_speed(PEER, file, threads)
        if peer == "ik_llama.cpp":
            return llama_speed(os.environ["IK_LLAMA"], file, threads)
        if peer == "openvino":
            return openvino_speed(file, threads)
        folder = exported(name, encoding)
        return openvino_speed(folder, threads) if os.path.isdir(folder) else None
    except subprocess.CalledProcessError as error:
        print(f"bench-peers: {peer}, {name} {encoding}: " + (error.stderr.strip().splitlines() or [""])[-1], file=sys.stderr)
        return None


def speed(name, encoding, file):
    """One program after the other, REPS rounds: the medians, so that a slow minute of the machine does not meet one of them."""
    for threads in THREADS:
        mine, peers = [], {peer: [] for peer in speed_peers()}
        for _ in range(int(REPS)):
            mine.append(pare_speed(file, threads))
            for peer, rounds in peers.items():
                if None not in rounds:
                    rounds.append(peer_speed(peer, name, encoding, file, threads))
        cells = []
        for what, limit in (("prefill", "of peak"), ("decode", "of bandwidth")):
            ours = statistics.median(r[what] for r in mine)
            cells += [f"{ours:.1f}", f"{100 * statistics.median(r[limit] for r in mine):.0f}%"]
            theirs = [0 if None in rounds else statistics.median(r[what] for r in rounds) for rounds in peers.values()]
            cells += [f"{t:.1f} ({ours / t:.2f})" if t else "-" for t in theirs]
            if len(theirs) > 1:
                cells.append(f"{ours / max(theirs):.2f}" if max(theirs) else "-")
        row(name, encoding, threads, *cells)


def speed_peers():
    return PEERS + (["openvino IR"] if "openvino" in PEERS and os.environ.get("OPENVINO_IR") else [])


def batch(name, encoding, file):
    """Sequences that decode together, 64 tokens each."""
    for threads in THREADS:
        ours = json.loads(out(PARE, "bench", file, "--threads", threads, "--pp", "0", "--tg", "64", "--batch",
                              ",".join(BATCHES), "--reps", REPS, "--quiet", "--json").stdout)["rows"]
        log = out(PEER + "/llama-batched-bench", "-m", file, "-t", threads, "-c", "8192", "-npp", "1", "-ntg", "64",
                  "-npl", ",".join(BATCHES), "--output-format", "jsonl").stdout
        peer = {r["pl"]: r["speed_tg"] for r in map(json.loads, re.findall(r"^\{.*\}$", log, re.M))}
        for r in ours:
            rate = r["tokens_per_s"]
            row(name, encoding, threads, r["batch"], f"{rate:.0f}", f"{peer[r['batch']]:.0f}", f"{rate / peer[r['batch']]:.2f}")


def stamp(log, what):
    """Seconds at which llama.cpp logged a line: MINUTES.SECONDS.MILLISECONDS.MICROSECONDS in front of it."""
    minutes, seconds, ms = re.search(r"(\d+)\.(\d\d)\.(\d{3})\.\d{3} I (?:perplexity: )?" + what, log).groups()
    return 60 * int(minutes) + int(seconds) + int(ms) / 1000


def perplexity(name, file, text):
    ours = json.loads(out(PARE, "eval", file, "--text", text, "--protocol", "llama.cpp", "--ctx", "512", "--windows",
                          WINDOWS, "--threads", THREADS[-1], "--compute", "fast", "--quiet", "--json").stdout)["perplexity"]
    log = out(PEER + "/llama-perplexity", "-m", file, "-f", text, "-c", "512", "--chunks", WINDOWS, "-t", THREADS[-1])
    log = log.stdout + log.stderr
    ppl = float(log.split("Final estimate: PPL = ")[1].split()[0])
    took = stamp(log, "Final estimate") - stamp(log, "calculating perplexity over")
    rate = int(WINDOWS) * 512 / took
    row(name, WINDOWS, f"{ours['ppl']:.4f}", f"{ppl:.4f}", f"{ours['tokens_per_s']:.0f}", f"{rate:.0f}",
        f"{ours['tokens_per_s'] / rate:.2f}")


def load(name, file):
    command = [PARE, "run", file, "--threads", THREADS[-1], "-p", "Hello", "-n", "1", "--quiet", "--json"]
    measured(command)
    seconds, _, rss = measured(command)
    result = json.loads(out(*command).stdout)
    size = os.path.getsize(file) / 2**20
    cache = result["kv_bytes"] / 2**20
    start = time.perf_counter()
    with open(file, "rb", buffering=0) as f:
        block = bytearray(1 << 20)
        while f.readinto(block):
            pass
    row(name, f"{size:.0f}", f"{seconds:.2f}", f"{time.perf_counter() - start:.2f}", f"{rss:.0f}", f"{size + cache + 100:.0f}")


def compress(name, file, work):
    ours = measured([PARE, "compress", file, "-o", work + "/a.gguf", "-r", "q4_k_m", "--quiet", "--threads", THREADS[-1]])
    peer = measured([PEER + "/llama-quantize", "--allow-requantize", file, work + "/b.gguf", "Q4_K_M", THREADS[-1]])
    mb = os.path.getsize(file) / 1e6
    row(name, f"{mb:.0f}", *(f"{v:.1f}" for v in (ours[0], peer[0])), *(f"{mb / v:.0f}" for v in (ours[1], peer[1])),
        f"{ours[2]:.0f}", f"{peer[2]:.0f}", f"{peer[0] / ours[0]:.2f}")


def encoded(work, measure):
    """Every model in every encoding, one file at a time."""
    for name in MODELS:
        for encoding in ENCODINGS:
            file = f"{work}/{name}-{encoding}.gguf"
            out(PARE, "compress", model(name), "-o", file, "-r", encoding, "--quiet")
            measure(name, encoding, file)
            os.remove(file)


def main():
    unknown = set(PEERS) - {"llama.cpp", "ik_llama.cpp", "openvino"}
    if unknown:
        sys.exit(f"bench-peers: PEERS: found '{unknown.pop()}', expected llama.cpp, ik_llama.cpp or openvino")
    data = os.environ.get("PARE_DATA", "../shared/data") + "/wikitext-2-raw/wiki.test.raw"
    with tempfile.TemporaryDirectory(prefix="pare-peers-") as work:
        if "speed" in SECTIONS:
            peers = [peer + " (ratio)" for peer in speed_peers()]
            if len(peers) > 1:
                peers.append("ratio to the best")
            table("model", "encoding", "threads", "prefill 512: pare", "of peak", *peers, "decode 128: pare", "of bandwidth", *peers)
            encoded(work, speed)
        if "batch" in SECTIONS:
            table("model", "encoding", "threads", "sequences", "decode: pare", "llama.cpp", "ratio")
            encoded(work, batch)
        if "perplexity" in SECTIONS and os.path.exists(data):
            table("model", "windows of 512", "perplexity: pare", "llama.cpp", "tokens/s: pare", "llama.cpp", "ratio")
            for name in MODELS:
                if name != "random":
                    perplexity(name, model(name), data)
        if "load" in SECTIONS:
            table("model", "file MiB", "run of one token, s", "reading the file, s", "resident MiB",
                  "file + KV cache + 100 MiB")
            for name in MODELS:
                load(name, model(name))
        if "compress" in SECTIONS:
            table("model to q4_k_m", "input MB", "seconds: pare", "llama-quantize", "MB per CPU second: pare",
                  "llama-quantize", "peak MiB: pare", "llama-quantize", "ratio")
            for name in MODELS:
                compress(name, model(name), work)


main()
