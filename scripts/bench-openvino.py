#!/usr/bin/env python3
"""OpenVINO's speed on a GGUF file that its own reader knows, or on a folder that optimum-cli exported. Run by the Python of the
virtual environment that bench-peers.sh makes.

    bench-openvino.py MODEL THREADS REPS     prints {"prefill": TOKENS_PER_S, "decode": TOKENS_PER_S}, means of REPS

Prefill is 512 tokens up to the first one generated, decode the 128 after it. A repetition has a prompt of its own: the pipeline
keeps the keys and values of prompts that it has seen."""
import json
import sys

import numpy
import openvino
import openvino_genai

PROMPT, GENERATED = 512, 128


def repetition(pipeline, seed):
    ids = numpy.random.default_rng(seed).integers(100, 20000, (1, PROMPT), dtype=numpy.int64)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = GENERATED + 1
    config.ignore_eos = True
    config.do_sample = False
    inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
    times = pipeline.generate(inputs, config).perf_metrics  # milliseconds
    return {"prefill": 1000 * PROMPT / times.get_ttft().mean, "decode": 1000 / times.get_tpot().mean}


def main():
    model, threads, reps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    repetition(pipeline, 0)  # compiles and warms
    rates = [repetition(pipeline, 1 + i) for i in range(reps)]
    print(json.dumps({what: sum(r[what] for r in rates) / reps for what in rates[0]}))


main()
