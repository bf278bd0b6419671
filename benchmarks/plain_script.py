"""The plain script that a user would write for four losses; plain_sweep.py and gpu.py compare ours with it.

python benchmarks/plain_script.py FILE.npz NUM_IMAGES NUM_EPOCHS      # prints the four val/miou as JSON
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations
import mlflow
import numpy as np
import optuna
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

NUM_CLASSES = 5
CLASSES = [1, 2, 3, 4]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Batches = DataLoader[tuple[torch.Tensor, torch.Tensor]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Tiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Tiles with labels, augmented one by one."""

    def __init__(self, pairs: np.ndarray, transform: albumentations.Compose | None) -> None:
        self.pairs, self.transform = pairs, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.pairs[index]
        if self.transform:
            done = self.transform(image=image, mask=mask)
            image, mask = done["image"], done["mask"]
        return torch.from_numpy(image.copy())[None].float() / 255, torch.from_numpy(mask.copy()).long()


def build_loss(name: str, train: np.ndarray) -> Loss:
    if name == "focal":
        return smp.losses.FocalLoss("multiclass", gamma=2, ignore_index=0)
    if name == "dice":
        return smp.losses.DiceLoss("multiclass", classes=CLASSES, ignore_index=0)
    if name == "jaccard":
        return smp.losses.JaccardLoss("multiclass", classes=CLASSES)
    counts = np.bincount(train[:, 1].ravel(), minlength=NUM_CLASSES).astype(float)
    weight = torch.tensor(counts.sum() / counts, dtype=torch.float32)
    return torch.nn.CrossEntropyLoss(weight=weight.to(DEVICE), ignore_index=0)


def validate(model: torch.nn.Module, loader: Batches) -> float:
    model.eval()
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES))
    with torch.no_grad():
        for image, mask in loader:
            guess, true = model(image.to(DEVICE)).argmax(1).cpu().numpy().ravel(), mask.numpy().ravel()
            kept = true > 0
            confusion += np.bincount(true[kept] * NUM_CLASSES + guess[kept], minlength=25).reshape(5, 5)
    hits = np.diag(confusion)
    return float(np.mean((hits / (confusion.sum(0) + confusion.sum(1) - hits))[1:]))


def make_loaders(train_pairs: np.ndarray, val_pairs: np.ndarray, batch_size: int = 32) -> list[Batches]:
    flip = albumentations.Compose([albumentations.HorizontalFlip(p=0.5)])
    loader = DataLoader(Tiles(train_pairs, flip), batch_size=batch_size, shuffle=True, num_workers=2)
    return [loader, DataLoader(Tiles(val_pairs, None), batch_size=batch_size, num_workers=2)]


def train_epoch(model: torch.nn.Module, loader: Batches, loss: Loss, optimizer: torch.optim.Optimizer) -> float:
    model.train()
    for image, mask in loader:
        optimizer.zero_grad()
        value = loss(model(image.to(DEVICE)), mask.to(DEVICE))
        value.backward()
        optimizer.step()
    return value.item()


def train(name: str, train_pairs: np.ndarray, val_pairs: np.ndarray, num_epochs: int) -> float:
    torch.manual_seed(0)
    loader, val_loader = make_loaders(train_pairs, val_pairs)
    model = smp.Unet("mobilenet_v2", encoder_weights=None, in_channels=1, classes=NUM_CLASSES).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = build_loss(name, train_pairs)
    best = 0.0
    with mlflow.start_run(run_name=name):
        mlflow.log_params({"loss": name, "epochs": num_epochs})
        for epoch in range(num_epochs):
            value = train_epoch(model, loader, loss, optimizer)
            miou = validate(model, val_loader)
            mlflow.log_metrics({"train/loss": value, "val/miou": miou}, step=epoch)
            if miou > best:
                best = miou
                torch.save(model.state_dict(), "best.pt")
        mlflow.log_artifact("best.pt")
    return best


def main() -> None:
    file, num_images, num_epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pairs = np.load(file)["training_set"]
    order = np.random.default_rng(0).permutation(len(pairs))
    num_val = len(pairs) // 10
    val_pairs, train_pairs = pairs[order[:num_val]], pairs[order[num_val : num_val + num_images]]
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("plain")

    def objective(trial: optuna.Trial) -> float:
        return train(trial.suggest_categorical("loss", names), train_pairs, val_pairs, num_epochs)

    names = ["focal", "weighted_cross_entropy", "dice", "jaccard"]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler({"loss": names}))
    study.optimize(objective)
    print(json.dumps([trial.value for trial in study.trials]))


if __name__ == "__main__":
    main()
