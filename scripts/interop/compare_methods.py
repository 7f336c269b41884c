#!/usr/bin/env python3
"""Wanda, SparseGPT and GPTQ of `pare compress` beside plain readings of the papers in PyTorch (f64): the first block of
a GGUF model, one calibration sequence.

    python -m venv env && env/bin/pip install torch transformers accelerate safetensors gguf sentencepiece
    env/bin/python scripts/interop/compare_methods.py PARE MODEL.gguf TEXT [N_BYTES]

A line per matrix: share of equal masks (pruners) or codes (gptq), the squared error of the layer's output relative to
the output, ours and the reference's. Rounding turns a code now and then, and what follows it; the errors must agree.
Exits with 1 when the errors of a recipe, summed over the matrices, differ by more than 1%.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def factor(h, damp=0.01):
    """U with (H + damping)^-1 = U^T U."""
    h = h.clone()
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    h += torch.eye(len(h), dtype=h.dtype) * damp * torch.diag(h).mean()
    return torch.linalg.cholesky(torch.linalg.inv(h), upper=True)


def sweep(w, h, choose, block=128):
    """choose(w, block as it is, its first column, column in it, U of the block) -> the column's new values."""
    u, w = factor(h), w.double().clone()
    for b in range(0, w.shape[1], block):
        e = min(b + block, w.shape[1])
        part, errors, ub = w[:, b:e].clone(), torch.zeros_like(w[:, b:e]), u[b:e, b:e]
        for j in range(e - b):
            q = choose(w, part, b, j, ub)
            error = (part[:, j] - q) / ub[j, j]
            part[:, j:] -= error[:, None] * ub[j, j:][None]
            part[:, j], errors[:, j] = q, error
        w[:, b:e] = part
        w[:, e:] -= errors @ u[b:e, e:]
    return w


def wanda(w, h):
    w = w.double().clone()
    order = torch.sort(w.abs() * torch.diag(h).sqrt()[None], dim=1, stable=True)[1]
    return w.scatter_(1, order[:, : w.shape[1] // 2], 0.0)


def sparsegpt(w, h, n=0, m=0):
    state = {}

    def choose(_, part, b, j, u):
        if j == 0:
            state["mask"] = torch.zeros_like(part, dtype=torch.bool)
            if not m:
                score = part**2 / torch.diag(u) ** 2
                state["mask"] = score <= torch.sort(score.flatten())[0][score.numel() // 2 - 1]
        if m and j % m == 0:
            score = part[:, j : j + m] ** 2 / torch.diag(u)[j : j + m] ** 2
            state["mask"].scatter_(1, j + torch.topk(score, m - n, dim=1, largest=False)[1], True)
        return torch.where(state["mask"][:, j], 0.0, part[:, j])

    return sweep(w, h, choose)


def gptq(w, h, bits, group):
    state, top = {}, 2**bits - 1

    def choose(whole, part, b, j, _):
        if (b + j) % group == 0:  # from weights without the errors of this block, as published
            g = whole[:, b + j : b + j + group]
            low, high = g.min(1)[0].clamp(max=0), g.max(1)[0].clamp(min=0)
            state["s"] = ((high - low) / top).half().double()
            state["z"] = torch.round(-low / state["s"])
        s, z = state["s"], state["z"]
        return s * ((torch.round(part[:, j] / s) + z).clamp(0, top) - z)

    return sweep(w, h, choose)


PUBLISHED = "grid=gptq_asym,search=none,form=published"
CASES = {
    "wanda:sparsity=0.5 + f32": wanda,
    "sparsegpt:sparsity=0.5 + f32": sparsegpt,
    "sparsegpt:sparsity=2:4 + f32": lambda w, h: sparsegpt(w, h, 2, 4),
    "gptq:bits=4,group=64," + PUBLISHED: lambda w, h: gptq(w, h, 4, 64),
    "gptq:bits=3,group=128," + PUBLISHED: lambda w, h: gptq(w, h, 3, 128),
}


def compress(pare, model, out, recipe, *more):
    subprocess.run([pare, "compress", model, "-o", out, "-r", recipe, "-q", "--records", "none", *more],
                   check=True, stdout=subprocess.DEVNULL)


def main():
    pare, model, text = sys.argv[1:4]
    folder = tempfile.mkdtemp(prefix="pare-compare-")
    sample = os.path.join(folder, "text")
    with open(text, "rb") as source, open(sample, "w", encoding="utf-8") as to:
        size = int(sys.argv[4]) if len(sys.argv) > 4 else 2600
        to.write(" ".join(source.read(size).decode("utf-8", "ignore").split()))
    told = subprocess.run([pare, "tokenize", model, sample, "--json"], check=True, capture_output=True)
    ids = json.loads(told.stdout)["ids"]  # as long as the sequence: there is one place to begin
    net = AutoModelForCausalLM.from_pretrained(os.path.dirname(model), gguf_file=os.path.basename(model),
                                               dtype=torch.float32).eval()
    inputs = {}
    layers = {k: v for k, v in net.model.layers[0].named_modules() if isinstance(v, torch.nn.Linear)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, x, y, name=name: inputs.__setitem__(name, x[0][0].double()))
    with torch.no_grad():
        net(torch.tensor([ids]))
    worst = 0.0
    for number, (recipe, reference) in enumerate(CASES.items()):
        out, plain = (os.path.join(folder, f"{kind}{number}") for kind in ("out", "plain"))
        compress(pare, model, out, recipe, "--calib", sample, "--calib-samples", "1", "--calib-ctx", str(len(ids)))
        compress(pare, out, plain, "f32")
        sums = [0.0, 0.0]
        ours = load_file(os.path.join(plain, "model.safetensors"))
        for name, layer in layers.items():
            x, w = inputs[name], layer.weight.data
            want, got = reference(w, x.T @ x), ours[f"model.layers.0.{name}.weight"].double()
            norm = ((w.double() @ x.T) ** 2).sum().item()
            a, b = (((v - w.double()) @ x.T).pow(2).sum().item() / norm for v in (got, want))
            same = (got - want).abs() < 1e-4 * w.abs().max() if "gptq" in recipe else (got == 0) == (want == 0)
            sums = [sums[0] + a, sums[1] + b]
            print(f"{recipe.split(',grid')[0]:32} {name:20} same {same.double().mean().item():.5f}  "
                  f"error^2 {a:.6f} reference {b:.6f}", flush=True)
        worst = max(worst, abs(sums[0] / sums[1] - 1))
    print(f"largest difference of the errors: {100 * worst:.2f}%")
    return worst > 0.01


sys.exit(main())
