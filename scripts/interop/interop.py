#!/usr/bin/env python3
"""Do other programs load what pare writes, and does pare read what they write?  make interop runs it:

    interop.py BUILD MODEL.gguf TEXT WORK [LLAMA_PERPLEXITY]

compressed-tensors  transformers loads the folders; its f32 logits beside pare's exact ones, and the perplexity of 2 windows
GPTQ, AWQ           unpacked with numpy from the formats' description: every weight is the one that was written; and files packed
                    here (act_order too) are read by pare
GGUF                llama.cpp's perplexity beside pare's
adapters            PEFT loads what pare trained beside the GGUF file; its logits beside those of the model that pare merged

PARTS="compressed_tensors packed_by_pare packed_here llama_cpp adapters" chooses. Exits with 1 when something does not agree.
"""
import json
import math
import os
import shutil
import subprocess
import sys

os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
import numpy as np
from safetensors.numpy import load_file, save_file

BUILD, MODEL, TEXT, WORK = (os.path.abspath(p) for p in sys.argv[1:5])
LLAMA = sys.argv[5] if len(sys.argv) > 5 else None
PARE = os.path.join(BUILD, "pare")
CTX, WINDOWS = 512, 2
failures = []


def pare(*args, **more):
    return subprocess.run([PARE, *args], check=True, capture_output=True, text=True, **more).stdout


def check(name, good, said):
    print(f"{'ok  ' if good else 'FAIL'} {name:46} {said}", flush=True)
    if not good:
        failures.append(name)


def fresh(name):
    path = os.path.join(WORK, name)
    shutil.rmtree(path, ignore_errors=True)
    return path


def compress(name, recipe, fmt, source=MODEL, *more):
    out = fresh(name)
    pare("compress", source, "-o", out, "-r", recipe, "--format", fmt, "--records", "none", "-q", *more)
    return out


def plain(source, name):
    """All weights as f32, as pare decodes them."""
    return load_file(os.path.join(compress(name, "f32@all", "hf", source), "model.safetensors"))


def windows(model):
    rows = ["" if not line.strip() else line for line in open(TEXT, encoding="utf-8").read().splitlines(True)]
    sample = os.path.join(WORK, "text")
    with open(sample, "w", encoding="utf-8") as f:
        f.write("\n\n".join(rows)[: CTX * WINDOWS * 8])
    ids = json.loads(pare("tokenize", model, sample, "--json"))["ids"]
    return np.array(ids[: CTX * WINDOWS], dtype=np.int32)


def ours(folder, ids, *act):
    path = os.path.join(WORK, "ids")
    ids.tofile(path)
    out = os.path.join(WORK, "logits")
    subprocess.run([os.path.join(WORK, "logits-tool"), folder, path, out, str(CTX), *act], check=True)
    return np.fromfile(out, dtype=np.float32).reshape(WINDOWS, CTX, -1)


def perplexity(logits, ids):
    nll = []
    for x, t in zip(logits, ids.reshape(WINDOWS, CTX)):
        x = x[:-1].astype(np.float64)
        x -= x.max(1, keepdims=True)
        nll.append(np.log(np.exp(x).sum(1)) - x[np.arange(CTX - 1), t[1:]])
    return math.exp(np.mean(nll))


# --- compressed-tensors through transformers ---


def theirs(folder, ids, weights_only):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    for group in config.quantization_config["config_groups"].values():
        if weights_only:
            group["input_activations"] = None
        if not group["weights"]["symmetric"]:  # compressed-tensors 0.20 makes no room for packed zero points otherwise
            config.quantization_config["dequantize"] = True
    net = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.stack([net(torch.from_numpy(w[None].astype(np.int64))).logits[0].numpy()
                         for w in ids.reshape(WINDOWS, CTX)])


def compressed_tensors():
    ids = windows(MODEL)
    cases = [("rtn:bits=4,group=64", "compressed-tensors"), ("rtn:bits=4,group=128", "compressed-tensors"),
             ("rtn:bits=4,group=32,grid=gptq_asym", "compressed-tensors"), ("rtn:bits=8,group=0", "compressed-tensors"),
             ("rtn:bits=3,group=64", "compressed-tensors"), ("rtn@attn:bits=8,group=64 + rtn@ffn:bits=4,group=32", "compressed-tensors"),
             ("rtn:bits=8,group=0,grid=sym_absmax", "int-quantized"), ("rtn:bits=8,group=64,grid=gptq_asym", "int-quantized")]
    for recipe, fmt in cases:
        folder = compress("compressed", recipe, fmt)
        # weights with zero points are unpacked there, in f16
        mine = ours(compress("rounded", "f16@all", "hf", folder) if "asym" in recipe else folder, ids, "none")
        other = theirs(folder, ids, True)
        worst, a, b = np.abs(mine - other).max(), perplexity(mine, ids), perplexity(other, ids)
        check(f"{fmt} {recipe}", worst < 2e-3, f"largest logit difference {worst:.2e}, perplexity {a:.4f}, transformers {b:.4f}")
        if fmt == "int-quantized" and "sym_absmax" in recipe:
            # on the same grid; a rounding error that differs in the first layer has made all others differ some layers later
            a, b = perplexity(ours(folder, ids), ids), perplexity(theirs(folder, ids, False), ids)
            check("  with inputs in 8 bits, W8A8", abs(b / a - 1) < 0.03, f"perplexity {a:.4f}, transformers {b:.4f}")


    for act, most in (("per_token", 0.03), ("per_token,sym=true,formula=full", 0.03), ("per_tensor_static", 0.1)):
        folder = compress("activations", f"w8a8:act={act}", "int-quantized", MODEL, "--calib", TEXT, "--calib-samples", "4")
        a, b = perplexity(ours(folder, ids), ids), perplexity(theirs(folder, ids, False), ids)
        check(f"w8a8:act={act}", abs(b / a - 1) < most, f"perplexity {a:.4f}, transformers {b:.4f}")


# --- GPTQ and AWQ, from the formats' description alone ---

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # column of nibble k of an AWQ word


def stream(words, bits, axis):
    """Codes of bit streams along an axis, first bit lowest."""
    w = np.moveaxis(words.view(np.uint32), axis, -1)
    one = (w[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(*w.shape[:-1], -1)
    codes = one[..., : one.shape[-1] // bits * bits].reshape(*w.shape[:-1], -1, bits)
    return np.moveaxis((codes << np.arange(bits, dtype=np.uint32)).sum(-1).astype(np.int64), -1, axis)


def pack_stream(codes, bits, axis):
    c = np.moveaxis(codes.astype(np.uint32), axis, -1)
    one = (c[..., None] >> np.arange(bits, dtype=np.uint32) & 1).reshape(*c.shape[:-1], -1, 32)
    words = (one << np.arange(32, dtype=np.uint32)).sum(-1).astype(np.uint32)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def awq_codes(words):
    w = words.view(np.uint32)
    out = np.zeros((w.shape[0], w.shape[1], 8), np.int64)
    for k, column in enumerate(ORDER):
        out[..., column] = w >> np.uint32(4 * k) & 15
    return out.reshape(w.shape[0], -1)


def module_weight(t, module, config):
    """w [out, in] f32."""
    scales = t[module + ".scales"].astype(np.float32)
    if config["quant_method"] == "awq":
        q, z = awq_codes(t[module + ".qweight"]), awq_codes(t[module + ".qzeros"])
        group = np.arange(len(q)) // (config["group_size"] if config["group_size"] > 0 else len(q))
    else:
        bits = config["bits"]
        q, z = stream(t[module + ".qweight"], bits, 0), stream(t[module + ".qzeros"], bits, 1)
        if config["checkpoint_format"] == "gptq":
            z = z + 1 & 2**bits - 1
        group = t[module + ".g_idx"]
    return (scales[group] * (q - z[group]).astype(np.float32)).T


def packed_by_pare():
    for recipe, fmt in [("rtn:bits=4,group=64", "gptq"), ("rtn:bits=4,group=128", "gptq-v2"), ("rtn:bits=3,group=64", "gptq"),
                        ("rtn:bits=2,group=32,grid=gptq_asym", "gptq-v2"), ("rtn:bits=8,group=0", "gptq"),
                        ("rtn:bits=4,group=64,grid=gptq_asym", "awq"), ("rtn:bits=4,group=128", "awq")]:
        folder = compress("packed", recipe, fmt)
        t = load_file(os.path.join(folder, "model.safetensors"))
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            config = json.load(f)["quantization_config"]
        want, back = plain(compress("own", recipe, "hf"), "want"), plain(folder, "back")
        modules = [k[:-8] for k in t if k.endswith(".qweight")]
        same = all(np.array_equal(module_weight(t, m, config), want[m + ".weight"]) for m in modules)
        read = all(np.array_equal(back[m + ".weight"], want[m + ".weight"]) for m in modules)
        check(f"{fmt} {recipe}", same and read and len(modules) == 210,
              f"{len(modules)} matrices: {'the' if same else 'NOT the'} numbers that pare wrote, {'the same' if read else 'OTHERS'} read back")


def packed_here():
    """A folder whose matrices are packed by numpy; pare reads it."""
    rng = np.random.default_rng(5)
    base = compress("base", "f32@all", "hf")
    with open(os.path.join(base, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    t = load_file(os.path.join(base, "model.safetensors"))
    for bits, group, order, v2, asym in [(4, 64, False, False, False), (3, 64, False, False, True), (4, 32, True, False, False),
                                         (8, 64, True, True, True), (2, 256, False, True, True)]:
        out, packed, want = fresh("here"), dict(t), {}
        for name in [n for n in t if "_proj" in n]:
            n_out, n_in = t[name].shape
            groups = -(-n_in // group)
            q = rng.integers(0, 2**bits, (n_in, n_out))
            z = rng.integers(0, 2**bits, (groups, n_out)) if asym else np.full((groups, n_out), 2 ** (bits - 1))
            s = (rng.random((groups, n_out)) * 1e-3).astype(np.float16)
            g = np.arange(n_in) // group
            if order:
                g = rng.permutation(g)
            del packed[name]
            packed.update({name[:-6] + "qweight": pack_stream(q, bits, 0), name[:-6] + "scales": s,
                           name[:-6] + "qzeros": pack_stream(z if v2 else z - 1 & 2**bits - 1, bits, 1),
                           name[:-6] + "g_idx": g.astype(np.int32)})
            want[name] = (s.astype(np.float32)[g] * (q - z[g]).astype(np.float32)).T
        os.makedirs(out)
        save_file(packed, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(base, name), out)
        config["quantization_config"] = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": not asym,
                                         "checkpoint_format": "gptq_v2" if v2 else "gptq"}
        with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        got = plain(out, "read")
        # groups that are not in order are held as f16
        same = all(np.array_equal(got[k], v.astype(np.float16).astype(np.float32) if order else v) for k, v in want.items())
        check(f"read: GPTQ {bits} bits, group {group}{', act_order' if order else ''}{', v2' if v2 else ''}", same,
              "every weight" if same else "weights differ")


# --- llama.cpp ---


def llama_cpp():
    if not LLAMA:
        print("skip llama.cpp: scripts/bench-peers.sh builds it")
        return
    for recipe in ["rtn:bits=4,group=32", "rtn:bits=4,group=64", "rtn:bits=4,group=64,grid=gptq_asym", "rtn:bits=8,group=32",
                   "gptq:bits=4,group=32", "q4_k_m", "q2_k"]:
        file = os.path.join(WORK, "model.gguf")
        if "rtn" not in recipe:
            compress(os.path.basename(file), recipe, "gguf", MODEL, "--calib", TEXT, "--calib-samples", "4", "--calib-ctx", "256")
        elif "32" in recipe:
            compress(os.path.basename(file), recipe, "gguf")
        else:  # by way of a GPTQ folder
            folder = compress("folder", recipe, "gptq-v2")
            pare("convert", folder, file)
        p = json.loads(pare("eval", file, "--text", TEXT, "--protocol", "llama.cpp", "--windows", "4", "--compute", "fast",
                            "--records", "none", "--json"))  # llama.cpp takes inputs in 8 bits too
        said = subprocess.run([LLAMA, "-m", file, "-f", TEXT, "-c", "512", "--chunks", "4"], check=True, capture_output=True, text=True)
        line = [w for w in (said.stdout + said.stderr).splitlines() if "Final estimate" in w][0]
        a, b = p["perplexity"]["ppl"], float(line.split("PPL = ")[1].split()[0])
        check(f"llama.cpp {recipe}", abs(a / b - 1) < 0.01, f"perplexity {a:.4f}, llama.cpp {b:.4f}")
        os.remove(file)


# --- adapters through PEFT ---


def adapters():
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = windows(MODEL)
    base = compress("base", "f32@all", "hf")
    for spec in ["lora:rank=4,alpha=8", "lora:rank=8,targets=qv,rslora=true"]:
        adapter, merged = fresh("adapter"), fresh("merged")
        pare("train", adapter, "--from", MODEL, "--adapter", spec, "--data", TEXT, "--steps", "3", "--batch", "2", "--ctx", "64",
             "--optim", "adamw:lr=1e-2", "--eval-windows", "2", "--records", "none", "-q")
        pare("convert", MODEL, merged, "--lora", adapter, "-q")
        net = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
        with torch.no_grad():
            other = np.stack([net(torch.from_numpy(w[None].astype(np.int64))).logits[0].numpy() for w in ids.reshape(WINDOWS, CTX)])
        dense, mine = ours(base, ids), ours(merged, ids)
        worst, moved = np.abs(mine - other).max(), np.abs(dense - other).max()
        check(f"PEFT {spec}", worst < 2e-3 < moved, f"largest logit difference {worst:.2e}, the adapter moves them by {moved:.2f}, "
              f"perplexity {perplexity(mine, ids):.4f}, PEFT {perplexity(other, ids):.4f}")


os.makedirs(WORK, exist_ok=True)
for part in (compressed_tensors, packed_by_pare, packed_here, llama_cpp, adapters):
    if part.__name__ in os.environ.get("PARTS", part.__name__):
        part()
print(f"{len(failures)} failures" if failures else "all agree")
sys.exit(bool(failures))
