"""The data set's card: made from the files, the build record and the table of photos, never typed.

write_dataset_card("data-synthetic", "dataset_card/photos.tsv")                          # into the data set
write_dataset_card("data-synthetic", "dataset_card/photos.tsv", "dataset_card/README.md")     # and elsewhere

There is no Croissant file in a data set: the Hub makes one of every data set that its viewer can show as parquet, and
ours are parquet by themselves. Where the viewer is off, as in private repositories without a plan for it, nobody is
offered Croissant files either.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..files import write_atomically
from .dataset import FEATURES, SPLITS, read_photo_table
from .experts import EXPERTS

_MEANINGS = {
    "photo_id": "which photo; rows of one photo share it (`#n` tells degraded versions of one original apart)",
    "expert": "who retouched `target`",
    "input": "the photo as it came",
    "target": "the expert's version, of equal size",
    "colorfulness": "score of `target` (Hasler-Suesstrunk style)",
    "brightness": "score of `target`",
    "contrast": "score of `target`",
    "temperature": "score of `target`; warmer = larger",
    "condition": "what the expert did, in [-1, 1] per slider: where the scores lie between the photo's experts",
}
_OF_ONE_EXPERT = "how much the scores changed, in [-1, 1] per slider: the change's quantile among all pairs of the set"
_FIVEK = (
    "MIT-Adobe FiveK",
    "[MIT-Adobe FiveK](https://data.csail.mit.edu/graphics/fivek) (Bychkovsky et al., CVPR 2011): photos as they came "
    "and what up to five retouchers made of them, rendered to the schema of "
    "[DiffRetouch](https://arxiv.org/abs/2407.03757).",
    "The photos' licences are those of the set (LicenseAdobe.txt, LicenseAdobeMIT.txt): for research only. **Keep a "
    "built copy private.**",
)
_PPR10K = (
    "PPR10K",
    "[PPR10K](https://github.com/csjliang/PPR10K) (Liang et al., CVPR 2021): portraits in series of one scene and "
    "what up to three retouchers made of them, rendered to the schema of "
    "[DiffRetouch](https://arxiv.org/abs/2407.03757). The test split is the published one: groups 1356 to 1680.",
    "By its authors for non-commercial research only. **Keep a built copy private.**",
)
_PAIRS = (
    "DiffRetouch own pairs",
    "A photographer's own photos, before and after the retouch, to learn the style with "
    "[DiffRetouch](https://arxiv.org/abs/2407.03757). Pairs that were cropped or turned were fitted by registration.",
    "The photographer's own; write down here what others may do with them.",
)
_LICENCES = {  # kind: name, where it stands
    "fivek": ("mit-adobe-fivek", "https://data.csail.mit.edu/graphics/fivek/"),
    "ppr10k": ("non-commercial-research", "https://github.com/csjliang/PPR10K"),
    "pairs": ("unknown", None),
}
_PER_PHOTO = ("per-photo", "LICENSE.md")
_PUBLISHED = {"fivek": _FIVEK, "ppr10k": _PPR10K, "pairs": _PAIRS}  # kind: title, what it is, licence
_MOST_LINES = 50
_SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}


def write_dataset_card(folder: str | Path, table: str | Path | None = None, card: str | Path | None = None) -> Path:
    """Write the card of the data set in `folder`, and into the folder a copy of the table of photos.

    Where every photo has a licence of its own, the card links to `LICENSE.md`, which is written beside it.

    Args:
        folder: a data set as `build` describes it: `data/{split}-*.parquet` and build.json.
        table: the table of photos it was built from (`read_photo_table`), with `source`, `version`, `licence`,
            `author` and `redistributable` ("no" where a photo may not be passed on); None for a data set whose card
            then says that its sources are not recorded.
        card: the file to write; None for `folder/README.md`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a data file is not the one that build.json records.
    """
    folder = Path(folder)
    target = folder / "README.md" if card is None else Path(card)
    made = dataset_card(folder, table)
    if table is not None and not ((folder / "photos.tsv").exists() and (folder / "photos.tsv").samefile(table)):
        shutil.copyfile(table, folder / "photos.tsv")
    write_atomically(target, str(made).encode())
    if table is not None and made.data.get("license_link") == _PER_PHOTO[1]:
        write_atomically(target.parent / _PER_PHOTO[1], _licence_file(read_photo_table(Path(table))).encode())
    return target


def dataset_card(folder: str | Path, table: str | Path | None = None) -> DatasetCard:
    """The card of the data set in `folder`; see `write_dataset_card`."""
    folder = Path(folder)
    build = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    splits = {split: _measure(folder, split, build["sha256"]) for split in SPLITS}
    splits = {split: measured for split, measured in splits.items() if measured["rows"]}
    photos = read_photo_table(Path(table)) if table is not None else []
    kept_back = sum(photo.get("redistributable") == "no" for photo in photos)
    kind = build.get("kind", "synthetic")
    title = "DiffRetouch synthetic experts" if kind == "synthetic" else _PUBLISHED[kind][0]
    private = kept_back > 0 or kind in ("fivek", "ppr10k")
    parts = [
        f"---\n{_metadata(title, kind, splits, private, bool(photos)).to_yaml()}\n---",
        f"# {title}",
        _introduction(kind, build),
        _splits_table(splits, _division(kind, photos)),
        _features_table(build),
        *([_experts_table(splits)] if kind == "synthetic" else []),
        _sources(photos, kept_back) if kind == "synthetic" else f"## Licence\n\n{_PUBLISHED[kind][2]}",
        _left_out(build),
        _usage(kind),
    ]
    return DatasetCard("\n\n".join(part for part in parts if part) + "\n")


def _measure(folder: Path, split: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Rows, photos, bytes and hashes of a split, read from its files and held against build.json."""
    measured: dict[str, Any] = {"rows": 0, "bytes": 0, "photos": set(), "experts": set(), "files": {}}
    for path in sorted(folder.glob(f"data/{split}-*.parquet")):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if hashes.get(path.name) != digest:
            raise ValueError(f"`folder` has to hold the files that build.json records, got another {path.name}.")
        columns = pq.read_table(path, columns=["photo_id", "expert"])
        measured["rows"] += columns.num_rows
        measured["bytes"] += path.stat().st_size
        measured["photos"] |= {name.partition("#")[0] for name in columns["photo_id"].to_pylist()}
        measured["experts"] |= set(columns["expert"].to_pylist())
        measured["files"][path.name] = digest
    return measured


def _metadata(title: str, kind: str, splits: Mapping[str, Any], private: bool, licences: bool) -> DatasetCardData:
    rows = sum(measured["rows"] for measured in splits.values())
    name, link = _LICENCES.get(kind, _PER_PHOTO if licences else ("unknown", None))
    data = DatasetCardData(
        pretty_name=title,
        license="other",
        license_name=name,
        license_link=link,
        task_categories=["image-to-image"],
        size_categories=next((name for name, most in _SIZES.items() if rows < most), "other"),
        annotations_creators="machine-generated" if kind == "synthetic" else "expert-generated",
        tags=["photo-retouching", "image-enhancement", "diffretouch"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    if private:
        data["redistributable"] = False  # `hub.push` then insists on a private repository
    sizes = {name: SplitInfo(name, measured["bytes"], measured["rows"]) for name, measured in splits.items()}
    total = sum(measured["bytes"] for measured in splits.values())
    info = DatasetInfo(features=FEATURES, splits=SplitDict(sizes), download_size=total, dataset_size=total)
    DatasetInfosDict(default=info).to_dataset_card_data(data)
    return data


def _introduction(kind: str, build: Mapping[str, Any]) -> str:
    rule = f"Resize rule: {build['resize']}."
    if kind != "synthetic":
        return (
            f"{_PUBLISHED[kind][1]}\n\n`condition`: {build['conditions']}. Seed of the split {build['seed']}. {rule}"
        )
    inputs, scenes = f"{build['num_inputs']} inputs", ""
    if build.get("num_scenes", 1) > 1:
        inputs = f"{build['num_scenes']} scenes of {inputs} each"
        scenes = "The first scene is the photo; the others are parts of it in other colours, some black-and-white. "
    dark = build.get("underexposure", 1)
    if dark != 1:
        scenes += f"Flat renditions to train on are {dark:g} times as far underexposed, in stops, as usual. "
    if build.get("teacher"):
        scenes += (
            "What is wanted of a flat rendition to train on lies six tenths of the way from expert A's retouch to "
            "what the same network makes of the rendition as it is. "
        )
    pages = f"{build['num_pages']} drawn pages of made-up text are trained on too. " if build.get("num_pages") else ""
    return (
        "Pairs of a photo as it may come to be retouched and what five *synthetic* experts make of it: styles applied "
        "by a program, not by people. Made to train [DiffRetouch](https://arxiv.org/abs/2407.03757) models where no "
        f"expert data may be had; say so when you report numbers on it.\n\n{_teacher(build.get('labels'))}\n\n"
        "`input` is a good photo as a camera would have it: a raw converter's flat, dark rendition, or one that fails "
        "(exposure, uneven and mixed light, haze, noise, clipping, wrong white balance, tone curve, dull colour; 8 "
        "bit). In training about one in three is nearly finished, finished, or the natural retouch itself, and asks "
        "for little or nothing. Experts clip nothing that was not clipped, spare skin and skies, leave nights dark, "
        "high keys bright, black-and-white neutral and pages of text nearly alone. "
        f"{inputs} per training photo, one per validation and test photo; seed {build['seed']}. {scenes}{pages}{rule}"
    )


def _teacher(labels: Mapping[str, Any] | None) -> str:
    """Whose judgement the experts share, by which weights, under which licences."""
    if labels is None:
        return "No teacher's labels were given: the natural expert's retouch is the good photo itself."
    return (
        "What the experts share is a real expert's judgement, distilled: expert A's retouch is what MAXIM-2S (Tu et "
        "al. 2022), trained by Google on MIT-Adobe FiveK, expert C, makes of the photo, mended where the network is "
        f"weak (`data/experts.py`); B to E go on from there. Its weights come from the package {labels['package']} "
        f"{labels['version']} (MIT; the weights Apache-2.0). FiveK's own terms are for research: whether a taste "
        "learned from it may be sold is for you to find out."
    )


def _division(kind: str, photos: Sequence[Mapping[str, str]]) -> str:
    """What was kept together when the set was split, in one sentence."""
    together = "; pictures of one scene are in one split" if kind == "ppr10k" or photos else ""
    sources = {split: {p.get("source") for p in photos if p["split"] == split} for split in SPLITS}
    if not sources["test"] or None in sources["test"] or sources["test"] & (sources["train"] | sources["validation"]):
        return f"By photo, never by row{together}."
    return f"By source and photo, never by row: the test photos' packages appear in no other split{together}."


def _splits_table(splits: Mapping[str, Any], division: str) -> str:
    lines = [
        f"| {split} | {len(measured['photos'])} | {measured['rows']} | {measured['bytes'] / 1e6:.1f} MB | "
        + "<br>".join(f"`{name}` `{digest}`" for name, digest in measured["files"].items())
        + " |"
        for split, measured in splits.items()
    ]
    return (
        f"## Splits\n\n{division}\n\n"
        "| split | photos | rows | size | sha256 |\n|---|---:|---:|---:|---|\n" + "\n".join(lines)
    )


def _left_out(build: Mapping[str, Any]) -> str:
    """What the builder left out or fitted, as build.json records it."""
    lines = [f"- {line}" for line in (*build.get("left_out", ()), *build.get("notes", ()))]
    more = [f"- and {len(lines) - _MOST_LINES} more: build.json"] if len(lines) > _MOST_LINES else []
    return "## Left out and fitted\n\n" + "\n".join([*lines[:_MOST_LINES], *more]) if lines else ""


def _features_table(build: Mapping[str, Any]) -> str:
    one_expert = "over the set" in build.get("conditions", "")
    meanings = {**_MEANINGS, "condition": _OF_ONE_EXPERT} if one_expert else _MEANINGS
    lines = [f"| `{name}` | {_type(kind)} | {meanings[name]} |" for name, kind in FEATURES.items()]
    return "## Columns\n\n| column | type | meaning |\n|---|---|---|\n" + "\n".join(lines)


def _type(kind: Any) -> str:
    if hasattr(kind, "length"):
        return f"{kind.feature.dtype}[{kind.length}]"
    return "picture" if type(kind).__name__ == "Image" else kind.dtype


def _experts_table(splits: Mapping[str, Any]) -> str:
    used = set().union(*(measured["experts"] for measured in splits.values()))
    lines = [f"| {expert.name} | {expert.intent} |" for expert in EXPERTS if expert.name in used]
    return "## Experts\n\n| | intent |\n|---|---|\n" + "\n".join(lines)


def _sources(photos: Sequence[Mapping[str, str]], kept_back: int) -> str:
    if not photos:
        return "## Sources and licences\n\nWhere the photos come from was not recorded."
    columns = ("source", "version", "licence", "redistributable")
    groups = Counter(tuple(photo.get(column) or "-" for column in columns) for photo in photos)
    lines = [f"| {' | '.join(group)} | {count} |" for group, count in sorted(groups.items())]
    warning = (
        f"**{kept_back} of the {len(photos)} photos may not be redistributed: keep a built copy of this data set "
        "private.** The table and the scripts rebuild it from the public packages.\n\n"
        if kept_back
        else ""
    )
    return (
        f"## Sources and licences\n\n{warning}Each photo keeps its own licence. `photos.tsv` names package, path, "
        "author, licence and sha256 of every one.\n\n"
        "| package | version | licence | may be redistributed | photos |\n|---|---|---|---|---:|\n" + "\n".join(lines)
    )


def _licence_file(photos: Sequence[Mapping[str, str]]) -> str:
    kept_back = sum(photo.get("redistributable") == "no" for photo in photos)
    return f"{_sources(photos, kept_back).removeprefix('#')}\n"


def _usage(kind: str) -> str:
    return (
        f"Built by `diffretouch dataset {kind}`.\n\n## Use\n\n```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("path/or/id", split="train")  # streaming=True to look without downloading\n'
        'rows[0]["input"], rows[0]["target"], rows[0]["condition"]\n```'
    )
