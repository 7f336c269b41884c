#!/usr/bin/env python3
"""`pare compress` beside other programs on one model with the same calibration tokens: the published code of methods
(clones of locuslab/wanda, IST-DASLab/sparsegpt, IST-DASLab/gptq, mit-han-lab/llm-awq) and tools (llm-compressor,
GPTQModel, AutoRound). Seconds, CPU seconds and peak memory of each process, perplexity as `pare eval` measures it.

    compare_peers.py PARE MODEL CALIB EVAL PEER... [--samples 8] [--ctx 512] [--windows 10] [--seed 0] [--compute exact]
                     [--work DIR]

PEER is NAME=PYTHON, for published code NAME=PYTHON:CLONE; PYTHON is an interpreter with torch and transformers (and the
tool). All run on the CPU: calls of CUDA are made empty, what newer versions of transformers hand to a layer is filled
in, nothing else of a clone is changed. NAME: wanda, sparsegpt, gptq, awq, llmcompressor, gptqmodel, autoround.
"""
import argparse
import json
import os
import subprocess
import sys
import time
import zlib

PUBLISHED = ",form=published,search=none,grid=gptq_sym"
CASES = {  # peer: (name, what the peer is told, recipe of pare)
    "wanda": [("wanda 50%", {}, "wanda:sparsity=0.5 + f32"), ("wanda 2:4", {"nm": (2, 4)}, "wanda:sparsity=2:4 + f32")],
    "sparsegpt": [("sparsegpt 50%", {}, "sparsegpt:sparsity=0.5 + f32"),
                  ("sparsegpt 2:4", {"nm": (2, 4)}, "sparsegpt:sparsity=2:4 + f32")],
    "gptq": [("gptq 4 bits g64", {"bits": 4, "group": 64}, "gptq:bits=4,group=64" + PUBLISHED),
             ("gptq 4 bits g64 act_order static_groups", {"bits": 4, "group": 64, "act": True, "static": True},
              "gptq:bits=4,group=64,act_order=true,static_groups=true" + PUBLISHED),
             ("gptq 4 bits g64 act_order", {"bits": 4, "group": 64, "act": True},
              "gptq:bits=4,group=64,act_order=true" + PUBLISHED + " + f32"),
             ("gptq 3 bits g64", {"bits": 3, "group": 64}, "gptq:bits=3,group=64" + PUBLISHED),
             ("gptq 3 bits row", {"bits": 3, "group": -1}, "gptq:bits=3,group=0" + PUBLISHED)],
    "awq": [("awq 4 bits g64", {"bits": 4}, None), ("awq 3 bits g64", {"bits": 3}, None)],
    "llmcompressor": [("gptq 4 bits g64", {"kind": "gptq"}, "gptq:bits=4,group=64"),
                      ("rtn 4 bits g64", {"kind": "rtn"}, "rtn:bits=4,group=64")],
    "gptqmodel": [("gptq 4 bits g64", {}, "gptq:bits=4,group=64")],
    "autoround": [("20 steps, 4 bits g64", {"iters": 20}, "signround:bits=4,group=64,iters=20,batch=4"),
                  ("opt-RTN 4 bits g64", {"iters": 0}, "rtn:bits=4,group=64,search=least_squares")],
}


# ---- the calibration tokens of pare (src/pipeline/calibrate.c) ----


def philox(seed, stream, index):
    low = 0xFFFFFFFF
    c, k = [index & low, index >> 32, stream & low, stream >> 32], [seed & low, seed >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & low, (p >> 32) ^ c[3] ^ k[1], p & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def choose_sequences(pare, model, text, n, ctx, seed, work):
    """Of a tokenizer that adds no BOS. Rows of the text are joined as the hf protocol does."""
    with open(text, encoding="utf-8", newline="\n") as source:
        rows = list(source)
    joined = os.path.join(work, "calibration.txt")
    with open(joined, "w", encoding="utf-8", newline="\n") as to:
        to.write("\n\n".join(row if row.strip() else "" for row in rows))
    told = subprocess.run([pare, "tokenize", model, joined, "--json"], check=True, capture_output=True)
    ids = json.loads(told.stdout)["ids"]
    places = [philox(seed, 0xCA11B, i) for i in range(n)]
    places = [(r[0] << 32 | r[1]) % (len(ids) - ctx + 1) for r in places]
    return [ids[at : at + ctx] for at in places]


# ---- in the peer's interpreter ----


def save(weights, model, out):
    from safetensors.torch import save_file

    os.makedirs(out, exist_ok=True)
    weights = {k: v.detach().float().contiguous().clone() for k, v in weights.items() if k != "lm_head.weight"}
    save_file(weights, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if os.path.exists(os.path.join(model, name)) and not os.path.exists(os.path.join(out, name)):
            os.symlink(os.path.abspath(os.path.join(model, name)), os.path.join(out, name))


def without_cuda():
    import torch

    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *a, **k: None
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *a, **k: self
        kind.to = (lambda to: lambda self, *a, **k: self if a and a[0] == "cuda" else to(self, *a, **k))(kind.to)


def old_layers(net):
    """Layers as the published code knows them: they compute their rotary angles and return a tuple."""
    import torch
    import transformers.models.llama.modeling_llama as llama

    forward = llama.LlamaDecoderLayer.forward

    def old(self, h, attention_mask=None, position_ids=None, position_embeddings=None, **_):
        if position_ids is None:
            position_ids = torch.arange(h.shape[1])[None]
        if position_embeddings is None:
            position_embeddings = net.model.rotary_emb(h, position_ids)
        return (forward(self, h, attention_mask=attention_mask, position_ids=position_ids,
                        position_embeddings=position_embeddings),)

    llama.LlamaDecoderLayer.forward = old


def run_published(name, clone, net, ids, o):
    import types
    from types import SimpleNamespace

    import torch

    for missing in ("datasets", "awq_inference_engine"):
        sys.modules.setdefault(missing, types.ModuleType(missing)).load_dataset = None
    sys.path.insert(0, clone)
    without_cuda()
    old_layers(net)
    cpu, loader, (n, m) = torch.device("cpu"), [(row[None], None) for row in ids], o.get("nm", (0, 0))
    if name == "wanda":
        import lib.prune as code

        code.get_loaders = lambda *a, **k: (loader, None)
        net.hf_device_map = {}
        args = SimpleNamespace(nsamples=len(ids), seed=0, sparsity_ratio=0.5, use_variant=False)
        code.prune_wanda(args, net, None, cpu, n, m)
    elif name == "awq":
        import awq.utils.calib_data as data

        data.get_calib_dataset = lambda **_: [row[None] for row in ids]
        from awq.quantize.pre_quant import run_awq
        from awq.quantize.quantizer import pseudo_quantize_model_weight

        grid = {"zero_point": True, "q_group_size": 64}
        run_awq(net, None, w_bit=o["bits"], q_config=grid, n_samples=len(ids), seqlen=ids.shape[1])
        pseudo_quantize_model_weight(net, o["bits"], grid)
    else:
        import llama as code

        code.args = SimpleNamespace(
            nsamples=len(ids), true_sequential=False, percdamp=0.01, wbits=o.get("bits", 16), sym=True,
            groupsize=o.get("group", -1), act_order=o.get("act", False), static_groups=o.get("static", False), minlayer=-1,
            maxlayer=1 << 20, prune_only="", invert=False, sparsity=0.5, prunen=n, prunem=m, blocksize=128)
        code.llama_sequential(net, loader, cpu)
    return net.state_dict()


def run_llmcompressor(net, ids, model, o):
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    grid = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
    told = {"config_groups": {"all": QuantizationScheme(targets=["Linear"], weights=grid)}, "ignore": ["lm_head"]}
    rows, more = ids.tolist(), {}
    if o["kind"] == "gptq":
        more = {"dataset": Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows]}),
                "max_seq_length": ids.shape[1], "num_calibration_samples": len(rows)}
    oneshot(model=net, tokenizer=model, recipe=(GPTQModifier if more else QuantizationModifier)(**told), **more)
    weights = {k: v for k, v in net.state_dict().items() if k.endswith("weight")}
    for name, layer in net.named_modules():
        if isinstance(layer, torch.nn.Linear) and hasattr(layer, "weight_scale"):
            weights[name + ".weight"] = fake_quantize(layer.weight.data, layer.weight_scale.data,
                                                      getattr(layer, "weight_zero_point", None), grid)
    return weights


def run_peer(name, clone, model, ids_file, out, o):
    if name == "gptqmodel":
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it refuses to start on two cores otherwise
        from gptqmodel import GPTQModel, QuantizeConfig
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_grad_enabled(False)
    with open(ids_file, encoding="utf-8") as source:
        ids = torch.tensor(json.load(source))
    if name == "gptqmodel":
        made = GPTQModel.load(model, QuantizeConfig(bits=4, group_size=64, sym=True), device="cpu", dtype=torch.float32)
        made.quantize([{"input_ids": r, "attention_mask": [1] * len(r)} for r in ids.tolist()], batch_size=1)
        made.save(out)
        return
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    net.config.use_cache = False
    net.seqlen = ids.shape[1]
    if name == "autoround":
        from auto_round import AutoRound

        torch.set_grad_enabled(o["iters"] > 0)
        made = AutoRound(net, AutoTokenizer.from_pretrained(model), bits=4, group_size=64, sym=True, iters=o["iters"],
                         batch_size=4, amp=False, device_map="cpu", dataset=[row[None] for row in ids], nsamples=len(ids),
                         seqlen=ids.shape[1], seed=o["seed"])
        made.quantize_and_save(out, format="fake")
    elif name == "llmcompressor":
        save(run_llmcompressor(net, ids, model, o), model, out)
    else:
        save(run_published(name, clone, net, ids, o), model, out)


# ---- the comparison ----


def timed(command, log):
    """Seconds, CPU seconds, peak MiB."""
    start = time.time()
    with open(log, "w", encoding="utf-8") as to:
        child = subprocess.Popen(command, stdout=to, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"failed: {' '.join(command)}; see {log}")
    return time.time() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def perplexity(a, folder):
    if not os.path.exists(os.path.join(folder, "config.json")):  # AutoRound puts a folder of its own into it
        folder = os.path.join(folder, os.listdir(folder)[0])
    told = subprocess.run([a.pare, "eval", folder, "--text", a.eval, "--windows", str(a.windows), "--json", "-q",
                           "--records", "none"], check=True, capture_output=True)
    return json.loads(told.stdout)["perplexity"]["ppl"]


def report(who, what, measured, ppl):
    seconds, cpu, peak = measured
    print(f"| {who} | {what} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} | {ppl:.4f} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pare", "model", "calib", "eval"):
        p.add_argument(name)
    p.add_argument("peers", nargs="+")
    for name, value in (("samples", 8), ("ctx", 512), ("windows", 10), ("seed", 0)):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--case", default="", help="only those with this in their names")
    p.add_argument("--compute", default="exact", help="of pare compress")
    p.add_argument("--work", default="peers-work")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    dense, ids_file = os.path.join(a.work, "dense"), os.path.join(a.work, "ids.json")
    if not os.path.exists(dense):
        subprocess.run([a.pare, "compress", a.model, "-o", dense, "--format", "hf", "-r", "f32", "-q", "--records", "none"],
                       check=True)
    ids = choose_sequences(a.pare, dense, a.calib, a.samples, a.ctx, a.seed, a.work)
    crc = zlib.crc32(b"".join(i.to_bytes(4, "little") for row in ids for i in row))
    with open(ids_file, "w", encoding="utf-8") as to:
        json.dump(ids, to)
    print("| program | what | s | CPU s | peak MiB | perplexity |\n|---|---|---:|---:|---:|---:|", flush=True)
    ours = {}
    for number, (name, where) in enumerate(peer.split("=", 1) for peer in a.peers):
        python, _, clone = where.partition(":")
        for case, (what, told, recipe) in enumerate(CASES[name]):
            if a.case not in what:
                continue
            out = os.path.join(a.work, f"{name}-{case}")
            command = [python, __file__, "--run", name, clone, dense, ids_file, out, json.dumps(told | {"seed": a.seed})]
            report(name, what, timed(command, out + ".log"), perplexity(a, out))
            if not recipe or recipe in ours:
                continue
            out = os.path.join(a.work, f"pare-{number}-{case}")
            command = [a.pare, "compress", dense, "-o", out, "-r", recipe, "-q", "--json", "--records", "none", "--compute", a.compute]
            if "rtn" not in recipe or "search" in recipe:
                command += ["--calib", a.calib, "--calib-samples", str(a.samples), "--calib-ctx", str(a.ctx), "--seed", str(a.seed)]
            ours[recipe] = timed(command, out + ".json")
            report("pare", recipe, ours[recipe], perplexity(a, out))
            with open(out + ".json", encoding="utf-8") as source:
                found = json.load(source).get("calib", {}).get("crc32", f"{crc:08x}")
            if found != f"{crc:08x}":
                sys.exit(f"calibration tokens differ: CRC-32 {found} of pare, {crc:08x} here")


if sys.argv[1:2] == ["--run"]:
    run_peer(*sys.argv[2:7], json.loads(sys.argv[7]))
else:
    main()
