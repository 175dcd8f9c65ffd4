"""Rewording by a multimodal language model that sees the picture: the augmentation of the LumbarCLIP paper.

LumbarCLIP, section 3.1: LLaVA-Med v1.5 Mistral-7B writes five sentences for each picture and caption, one of them the
caption itself, at ``temperature = 0.2, num_beams = 1, max_new_tokens = 1024``. The paper calls that deterministic;
the model's own scripts sample wherever the temperature is above 0, so it is not. Here the draws are seeded per picture
and caption: a text depends on them, the model and the settings alone, not on the batch. ``decoding: greedy`` draws
nothing.

Any image-text-to-text model that ``transformers`` loads can stand in its place. Nothing is downloaded. Every answer is
kept on disk as the model gave it, so that a killed command loses one batch, and a better reader of answers needs no
second run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.errors import BadInput, MissingWeights
from benchmark.model import Captioned, RewordContext
from benchmark.result import digest, write_atomically
from benchmark.seeding import derive_seed
from benchmark.weights import folder_digest, folders_for
from lumbarclip.augment.mllm_output import sentences

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL = "microsoft/llava-med-v1.5-mistral-7b"
"""The paper's. Its published files are in a layout of their own (``llava_mistral``), which transformers does not read:
a converted copy must lie under this name. Research use only, by its publisher's terms."""

PROMPT = (
    "Generate {all} distinct, precise, and medically accurate sentences to describe the provided lumbar MRI image. "
    'One of the sentences must be the original caption: "{{original_caption}}". The other {others} sentences should '
    "rephrase or expand on the original caption, maintaining its key details (e.g., vertebrae count, disc conditions, "
    "Pfirrmann grades, narrowing, bulging, endplate changes) while varying the wording and structure. Ensure all "
    "sentences are concise and focus solely on the MRI findings. \n<image>"
)
"""The paper's, its lines joined; for four rewordings word for word."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_IMAGE = "\n<image>"


@dataclass
class MLLM:
    """Asks a model for the other sentences of each picture and caption.

    Raises:
        BadInput: for settings that cannot be used.
    """

    model: str = MODEL
    """``OWNER/NAME``, looked for where published weights are."""
    decoding: Literal["sampled", "greedy"] = "sampled"
    temperature: float = 0.2
    max_new_tokens: int = 1024
    seed: int = 0
    batch: int = 8
    """Pairs at a time; changes the speed and, but for rounding, not the texts."""
    name: str = field(default="mllm", init=False)

    def __post_init__(self) -> None:
        if self.decoding not in ("sampled", "greedy"):
            raise BadInput(f"augmentation_options.mllm.decoding: {self.decoding!r}; use 'sampled' or 'greedy'")
        for setting in ("temperature", "max_new_tokens", "batch"):
            value = getattr(self, setting)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise BadInput(f"augmentation_options.mllm.{setting}: {value!r}; it must be a number above 0")
        if len(Path(self.model).parts) != 2:
            raise BadInput(f"augmentation_options.mllm.model: {self.model!r}; give a hub's OWNER/NAME, as in {MODEL!r}")

    def identify(self, weights_dir: Path | None) -> str:
        """Digest of the model's files and of what it is asked."""
        return digest([folder_digest(self._folder(weights_dir)), PROMPT])

    def reword_pairs(self, pairs: Sequence[Captioned], count: int, *, context: RewordContext) -> list[list[str]]:
        """Give up to ``count`` sentences a pair: as many as the model wrote that are no repetitions."""
        from filelock import FileLock

        folder = self._folder(context.weights_dir)
        keys = [self._key(folder_digest(folder), pair, count) for pair in pairs]
        files = [context.cache / key[:2] / f"{key}.json" for key in keys]
        context.cache.mkdir(parents=True, exist_ok=True)
        # Processes of one run want the same texts: one writes them, the others wait and read.
        with FileLock(context.cache / ".lock"):
            missing = {file: pair for file, pair in zip(files, pairs, strict=True) if not file.is_file()}
            done = len(set(files)) - len(missing)
            context.progress(done, len(set(files)))
            for answers in self._answers(list(missing.items()), folder, count, context.device):
                for file, answer in answers.items():
                    write_atomically(file, json.dumps({"answer": answer}).encode())
                done += len(answers)
                context.progress(done, len(set(files)))
        return [
            sentences(json.loads(file.read_text(encoding="utf-8"))["answer"], pair.report, count)
            for file, pair in zip(files, pairs, strict=True)
        ]

    def _answers(
        self, missing: Sequence[tuple[Path, Captioned]], folder: Path, count: int, device: str
    ) -> Iterator[dict[Path, str]]:
        """The model's answers, batch by batch; it is loaded when there is something to ask, and freed after."""
        if not missing:
            return
        writer = Writer(folder, device)
        # Of like length together: a batch takes as long as its longest.
        ordered = sorted(missing, key=lambda each: len(each[1].report))
        for start in range(0, len(ordered), self.batch):
            part = ordered[start : start + self.batch]
            pairs = [pair for _, pair in part]
            answers = writer.answers(
                pairs,
                [prompt(pair.report, count) for pair in pairs],
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature if self.decoding == "sampled" else 0.0,
                seeds=[derive_seed("mllm", pair.pixel_hash, pair.report, self.seed) for pair in pairs],
            )
            yield {file: answer for (file, _), answer in zip(part, answers, strict=True)}

    def _key(self, files: str, pair: Captioned, count: int) -> str:
        drawn = [self.temperature, self.seed] if self.decoding == "sampled" else []
        asked = prompt(pair.report, count)
        return digest([files, pair.pixel_hash, asked, self.decoding, drawn, self.max_new_tokens], size=16)

    def _folder(self, weights_dir: Path | None) -> Path:
        """The model's folder, looked at before anything is trained.

        Raises:
            MissingWeights: where it is not on this machine, or not whole.
            BadInput: where transformers does not know its layout.
        """
        *others, last = folders_for(self.model, weights_dir)
        found = next((folder for folder in (*others, last) if (folder / "config.json").is_file()), None)
        if found is None:
            places = f"{', '.join(map(str, others))} or {last}" if others else str(last)
            raise MissingWeights(
                f"augmentation 'mllm' writes with {self.model}, which is not on this machine: put its files, in the "
                f"layout of transformers, into {places}; or write the texts where it is, with 'data augment', and "
                "bring them with --augmentation file --rewordings FILE.csv"
            )
        _check_layout(self.model, found)
        return found


def prompt(caption: str, count: int) -> str:
    """What is asked for ``count`` rewordings of a caption."""
    others = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    return PROMPT.format(all=count + 1, others=others).replace("{original_caption}", " ".join(caption.split()))


def _check_layout(model: str, folder: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise BadInput(
            f"{folder}: {model} is of type {kind!r}, which transformers does not read as an image-text-to-text model; "
            "put a converted copy there, as docs/augmentation.md says"
        )
    index = folder / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    lacking = sorted(name for name in shards if not (folder / name).is_file())
    if lacking:
        raise MissingWeights(f"{folder}: {model} lacks {' and '.join(lacking)}; put them there")


# --------------------------------------------------------------------------------------------- the model


class Writer:
    """A loaded model and its processor: bf16 on a GPU, float32 elsewhere, with PyTorch's own attention."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = torch.device(device)
        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.model, loading = AutoModelForImageTextToText.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.bfloat16 if self.device.type == "cuda" else torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        missing = sorted(loading["missing_keys"])
        if missing:
            raise BadInput(f"{folder}: {len(missing)} tensors are not in its files, among them {missing[0]}")
        self.model.to(self.device).eval()
        # The answer begins behind the last token of each row: what is shorter is filled up in front.
        self.processor.tokenizer.padding_side = "left"
        if self.processor.tokenizer.pad_token is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        self._complete_processor()

    def answers(
        self,
        pairs: Sequence[Captioned],
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[str]:
        """What the model says to each prompt and picture; ``temperature`` 0 takes the likeliest token each time."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from benchmark.data.preprocess import picture

        inputs = self.processor(
            text=[self._dressed(each) for each in prompts],
            images=[picture(pair.pixels).convert("RGB") for pair in pairs],
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        own = self.model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else self.processor.tokenizer.eos_token_id
        # A configuration of our own, so that no setting in the model's folder (a penalty, a top-p) slips in.
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        draws = LogitsProcessorList([_Draws(temperature, seeds)] if temperature > 0 else [])
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, generation_config=config, logits_processor=draws)
        written = tokens[:, inputs["input_ids"].shape[1] :]
        answers: list[str] = self.processor.batch_decode(written, skip_special_tokens=True)
        return answers

    def _dressed(self, asked: str) -> str:
        """The prompt as the model was trained to be asked: by its chat template, or Mistral's brackets."""
        if self.processor.chat_template:
            content = [{"type": "text", "text": asked.removesuffix(_IMAGE)}, {"type": "image"}]
            message = [{"role": "user", "content": content}]
            dressed: str = self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            return dressed
        asked = asked.replace(_IMAGE, f"\n{self.processor.image_token}")
        text_model = getattr(self.model.config, "text_config", self.model.config)
        return f"[INST] {asked} [/INST]" if text_model.model_type == "mistral" else asked

    def _complete_processor(self) -> None:
        """Tell a processor of an older copy how many tokens a picture takes, which such copies do not say."""
        if getattr(self.processor, "patch_size", 0) is None:
            self.processor.patch_size = self.model.config.vision_config.patch_size
            self.processor.vision_feature_select_strategy = self.model.config.vision_feature_select_strategy
            self.processor.num_additional_image_tokens = 1


class _Draws:
    """Seeded sampling for a batch, one stream of random numbers a row.

    Gumbel's trick: the largest of ``logits / T + G``, with G standard Gumbel noise, is a draw from
    ``softmax(logits / T)``; so the likeliest token of what comes out is a sample, whoever else is in the batch. The
    noise is drawn on the CPU, so that a seed means the same on every device.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        import torch

        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, _tokens: Tensor, scores: Tensor) -> Tensor:
        """Add each row's noise to (B, V) logits."""
        import torch

        noise = [self._gumbel(generator, scores.shape[1]) for generator in self.generators]
        return scores.float() / self.temperature + torch.stack(noise).to(scores.device)

    @staticmethod
    def _gumbel(generator: torch.Generator, n: int) -> Tensor:
        import torch

        return -torch.empty(n).exponential_(generator=generator).log()
