#!/usr/bin/env python3
"""A training job for tests/layout_test.py: a model of transformers, made from the config.json in
DIRECTORY with other weights than the run's, trains on random data until the run is over.

    layout_job.py DIRECTORY lm|vit|lora [LOADED]

Of lora DIRECTORY is an adapter's. What the run loaded into the model is saved in LOADED.
"""
import os
import sys
import time

import torch
import transformers

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "python"))
import atoll  # noqa: E402


def main():
    directory, kind = sys.argv[1:3]
    torch.manual_seed(5)
    if kind == "lora":
        import peft
        config = peft.PeftConfig.from_pretrained(directory)
        base = transformers.AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
        model = peft.PeftModel.from_pretrained(base, directory, is_trainable=True)
        for parameter in model.parameters():
            if parameter.requires_grad:  # not what the run begins from
                torch.nn.init.normal_(parameter)
    else:
        config = transformers.AutoConfig.from_pretrained(directory)
        make = transformers.AutoModelForCausalLM if kind == "lm" \
            else transformers.AutoModelForImageClassification
        model = make.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    site = atoll.join(model, optimizer, tokens_per_step=128)
    if len(sys.argv) > 3:  # what was loaded, for a comparison with the checkpoint
        model.save_pretrained(sys.argv[3], safe_serialization=True)
    step = 0
    while not (site.stopping or site.away):
        if kind != "vit":
            tokens = torch.randint(0, 64, (4, 32))
            loss = model(input_ids=tokens, labels=tokens).loss
        else:
            images = torch.randn(4, 3, config.image_size, config.image_size)
            labels = (images.mean((1, 2, 3)) > 0).long()
            loss = model(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        site.loss = loss.item()
        optimizer.step()
        print(f"step {step} loss {loss.item():.4f}", flush=True)
        step += 1
        time.sleep(0.05)


if __name__ == "__main__":
    main()
