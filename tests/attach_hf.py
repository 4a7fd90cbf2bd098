#!/usr/bin/env python3
"""A job of transformers.Trainer for tests/attach_test.py, with one callback.

    attach_hf.py TEXT OUTPUT [--save N] [--lora]
"""
import argparse
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "python"))
os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from transformers import (LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback,  # noqa: E402
                          TrainingArguments)

import atoll  # noqa: E402


class Rows(torch.utils.data.Dataset):
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = torch.tensor(list(file.read()))

    def __len__(self):
        return (len(self.data) - 32) // 8

    def __getitem__(self, at):
        row = self.data[at * 8:at * 8 + 32]
        return {"input_ids": row, "labels": row}


class Say(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **now):
        print("log", state.global_step, logs, flush=True)

    def on_save(self, args, state, control, **now):
        print("saved", state.global_step, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("output")
    parser.add_argument("--save", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True))
    arguments = TrainingArguments(
        output_dir=given.output, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        max_steps=100000, learning_rate=3e-3, warmup_steps=10, logging_steps=5, report_to=[],
        save_strategy="steps" if given.save else "no", save_steps=given.save or 500,
        disable_tqdm=True, use_cpu=True, dataloader_num_workers=0)
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(given.text),
                      callbacks=[atoll.HFCallback(), Say()])
    saved = os.path.isdir(given.output) and any(name.startswith("checkpoint-")
                                                for name in os.listdir(given.output))
    trainer.train(resume_from_checkpoint=saved or None)


if __name__ == "__main__":
    main()
