#!/usr/bin/env python3
"""A training job for tests/layout_test.py: a model of transformers, made from the config.json in
DIRECTORY with other weights than the run's, trains on random data until the run is over.

    layout_job.py DIRECTORY lm|vit|lora [LOADED] [--trainer]

Of lora DIRECTORY is an adapter's. What the run loaded into the model is saved in LOADED. With
--trainer transformers.Trainer trains it, by one callback.
"""
import os
import sys
import time

import torch
import transformers

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "python"))
import atoll  # noqa: E402


class Data(torch.utils.data.Dataset):
    def __init__(self, kind, config):
        self.kind, self.config = kind, config

    def __len__(self):
        return 1 << 20

    def __getitem__(self, at):
        if self.kind == "vit":
            image = torch.randn(3, self.config.image_size, self.config.image_size)
            return {"pixel_values": image, "labels": (image.mean() > 0).long()}
        tokens = torch.randint(0, 64, (32,))
        return {"input_ids": tokens, "labels": tokens}


def train_by_trainer(model, kind, loaded):
    class Slow(transformers.TrainerCallback):
        def on_train_begin(self, *_, **now):
            now["model"].save_pretrained(loaded, safe_serialization=True)

        def on_step_end(self, *_, **__):
            time.sleep(0.05)
    arguments = transformers.TrainingArguments(
        output_dir=loaded + ".trainer", per_device_train_batch_size=4, max_steps=1 << 20,
        learning_rate=1e-3, logging_steps=5, save_strategy="no", report_to=[], use_cpu=True)
    transformers.Trainer(model=model, args=arguments, train_dataset=Data(kind, model.config),
                         callbacks=[atoll.HFCallback(tokens_per_step=128), Slow()]).train()


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
    if "--trainer" in sys.argv:
        train_by_trainer(model, kind, sys.argv[3])
        return
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
