#!/usr/bin/env python3
"""PyTorch beside `pare train`: the same initial weights, the same windows of text in the same order, the same AdamW.

    train_peer.py WORK --steps 100 --batch 8 --ctx 256 [--lr 1e-3] [--bf16] [--threads 2] [--log LOG.jsonl]

WORK is the work folder of a run of pare that was told --keep-work: WORK/init (the model before the first step) and WORK/tokens (the
text). Prints the loss of every step; with --log, of `pare train --json`, the largest relative difference. --sparse MODEL: what is 0 in a
linear layer of that model (a folder: what a run of static_sparse wrote) is 0 from the first step on and is not trained. --held-out: the
loss of the held-out windows after the last step. Needs torch and transformers."""
import argparse
import json
import math
import resource
import struct
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM

p = argparse.ArgumentParser()
p.add_argument("work")
p.add_argument("--steps", type=int, default=100)
p.add_argument("--batch", type=int, default=8)
p.add_argument("--ctx", type=int, default=256)
p.add_argument("--lr", type=float, default=1e-3)
p.add_argument("--warmup", type=int, default=0)
p.add_argument("--schedule", default="constant")
p.add_argument("--beta2", type=float, default=0.999)
p.add_argument("--decay", type=float, default=0.0)
p.add_argument("--clip", type=float, default=1.0)
p.add_argument("--share", type=float, default=0.02)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--bf16", action="store_true")
p.add_argument("--log")
p.add_argument("--sparse", metavar="MODEL")
p.add_argument("--lr-linear", type=float, default=1.0, help="factor on the rate of linear layers")
p.add_argument("--held-out", action="store_true")
a = p.parse_args()
torch.set_num_threads(a.threads)


def philox(seed, stream, index):
    """Philox 4x32-10 as in src/base/rng.h."""
    key = [seed & 0xffffffff, seed >> 32 & 0xffffffff]
    c = [index & 0xffffffff, index >> 32 & 0xffffffff, stream & 0xffffffff, stream >> 32 & 0xffffffff]
    for _ in range(10):
        x, y = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(y >> 32) ^ c[1] ^ key[0], y & 0xffffffff, (x >> 32) ^ c[3] ^ key[1], x & 0xffffffff]
        key = [(key[0] + 0x9E3779B9) & 0xffffffff, (key[1] + 0xBB67AE85) & 0xffffffff]
    return c


def order(epoch, n):
    o = list(range(n))
    for i in range(n, 1, -1):
        r = philox(a.seed, 0x0b47c + (epoch << 20), i)
        j = (r[0] << 32 | r[1]) % i
        o[j], o[i - 1] = o[i - 1], o[j]
    return o


with open(a.work + "/tokens", "rb") as f:
    head = f.read(64)
    width, n = struct.unpack("<I", head[8:12])[0], struct.unpack("<Q", head[16:24])[0]
    ids = np.frombuffer(f.read(), dtype="<u2" if width == 2 else "<u4")[:n].astype(np.int64)
windows = (n - 1) // a.ctx
n_train = windows - max(1, int(windows * a.share))
model = AutoModelForCausalLM.from_pretrained(a.work + "/init", dtype=torch.float32)
model.train()
linear = [m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
masks = []
if a.sparse:
    of = dict(AutoModelForCausalLM.from_pretrained(a.sparse, dtype=torch.float32).named_modules())
    masks = [(m.weight, (of[name].weight != 0).float().detach()) for name, m in model.named_modules()
             if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    for q, mask in masks:
        q.data.mul_(mask)
others = [q for q in model.parameters() if q.dim() > 1 and not any(q is x for x in linear)]
vectors = [q for q in model.parameters() if q.dim() == 1]
optim = torch.optim.AdamW([{"params": linear, "weight_decay": a.decay, "factor": a.lr_linear},
                           {"params": others, "weight_decay": a.decay, "factor": 1.0},
                           {"params": vectors, "weight_decay": 0.0, "factor": 1.0}],
                          lr=a.lr, betas=(0.9, a.beta2), eps=1e-8, fused=True)
ours = [json.loads(line) for line in open(a.log)] if a.log else []
ours = {x["step"]: x["loss"] for x in ours if "loss" in x and "step" in x}
epoch, o, worst, seconds = 0, order(0, n_train), 0.0, 0.0
for step in range(a.steps):
    if step == min(5, a.steps - 1):
        seconds, first = time.perf_counter(), step
    rows = []
    for i in range(step * a.batch, (step + 1) * a.batch):
        if i // n_train != epoch:
            epoch = i // n_train
            o = order(epoch, n_train)
        at = o[i % n_train] * a.ctx
        rows.append(ids[at:at + a.ctx + 1])
    x = torch.from_numpy(np.stack(rows))
    lr = a.lr * min(1.0, (step + 1) / a.warmup) if a.warmup else a.lr
    if a.schedule == "cosine" and step >= a.warmup:
        q = (step - a.warmup) / max(1, a.steps - a.warmup)
        lr = a.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * q)))
    for g in optim.param_groups:
        g["lr"] = lr * g["factor"]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.bf16):
        logits = model(x[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), x[:, 1:].reshape(-1))
    optim.zero_grad()
    loss.backward()
    for q, mask in masks:
        q.grad.mul_(mask)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), a.clip) if a.clip else 0.0
    optim.step()
    value = float(loss.detach())
    mine = ours.get(step + 1)
    if mine is not None:
        worst = max(worst, abs(mine - value) / value)
    if step % 10 == 0 or step == a.steps - 1:
        print(f"step {step + 1}: loss {value:.6f} grad norm {float(norm):.4f}" +
              (f" pare {mine:.6f}" if mine is not None else ""), flush=True)
seconds = time.perf_counter() - seconds
held_out = None
if a.held_out:
    with torch.no_grad():
        losses = []
        for i in range(n_train, windows):
            x = torch.from_numpy(ids[i * a.ctx:(i + 1) * a.ctx + 1])[None]
            losses.append(float(torch.nn.functional.cross_entropy(model(x[:, :-1]).logits[0].float(), x[0, 1:])))
        held_out = sum(losses) / len(losses)
print(json.dumps({"tokens_per_s": (a.steps - first) * a.batch * a.ctx / seconds, "bf16": a.bf16, "threads": a.threads,
                  "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "worst_relative": worst, "held_out": held_out,
                  "torch": torch.__version__}))
