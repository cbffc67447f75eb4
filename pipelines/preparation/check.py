"""`python -m pipelines.prepare check`: decodes every image, prints what is unusual, updates the quarantine list."""

from __future__ import annotations

from collections import Counter

from pipelines.preparation.inspection import inspect_all
from pipelines.preparation.summary import print_left_out
from pipelines.quoting import one_line, quoted
from pipelines.stores.open import open_splits
from pipelines.stores.quarantine import UNREADABLE, find_list, update_quarantine
from pipelines.stores.synthetic import SyntheticStore


def check_data(data: str, threads: int, quarantine: str | None, max_pixels: int) -> bool:
    """Whether all images at the location `data` can be decoded; those that cannot are quarantined.

    Raises ValueError, one line, if training would refuse the data or the list cannot be written.
    """
    stores = dict(zip(("train", "val"), open_splits(data, quarantined=True), strict=True))
    found = [item for split, store in stores.items() for item in inspect_all(store, split, threads, max_pixels)]
    found.sort(key=lambda item: (item[1].kind, item[0]))
    for name, finding in found:
        print(f"{finding.kind}\t{quoted(name)}\t{one_line(finding.detail)}")
    print_left_out(**stores)
    count = sum(map(len, stores.values()))
    kinds = Counter(finding.kind for _, finding in found)
    print(f"{count} images: " + (", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "all plain"))
    if not isinstance(stores["train"], SyntheticStore):
        unreadable = {name: finding.detail for name, finding in found if finding.kind == UNREADABLE}
        if line := update_quarantine(data, quarantine, unreadable):
            print(line)
    # Opens the data as training does, which fails if all images of a class are quarantined.
    open_splits(data, quarantine=find_list(data, quarantine))
    return not kinds[UNREADABLE]
