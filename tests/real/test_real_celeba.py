"""CelebA's own images, annotations and a real quota page, where CLUSTERPATHS_SHARED points to them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from clusterpaths.datasets.celeba import celeba_present, open_celeba
from clusterpaths.errors import QuotaError

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


def test_two_thousand_images_with_gaps_and_annotations_for_some() -> None:
    assert celeba_present(SHARED)
    table = open_celeba(SHARED).examples()
    assert len(table) == 2000
    assert table.files[0] == "000064.jpg"
    assert table.ids[0] == 63
    assert (table.ids[1:] > table.ids[:-1]).all()
    assert len(table.attributes) == 40
    marked = {name for name, values in table.attributes.items() if values[0] == 1}
    assert {"5_o_Clock_Shadow", "Bags_Under_Eyes"} & marked == {"5_o_Clock_Shadow"}  # line 3: 1 -1 1 1 …
    assert (table.attributes["Male"] != 0).sum() == 310
    assert table.class_names[table.labels[0]] == "Brown"
    assert (table.labels >= 0).sum() == 184


def test_the_root_above_and_the_folder_itself_are_the_same_data_set() -> None:
    above, itself = open_celeba(SHARED).examples(), open_celeba(SHARED / "celeba").examples()
    assert above.files == itself.files
    assert above.labels.tolist() == itself.labels.tolist()


def test_real_images_are_178_by_218_rgb() -> None:
    data = open_celeba(SHARED)
    for file in data.examples().files[:50]:
        image = data.read_image(file)
        assert (image.mode, image.size) == ("RGB", (178, 218))


def test_the_real_quota_page_is_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    shutil.copy(SHARED / "celeba" / "img_align_celeba" / "000064.jpg", folder)
    shutil.copy(SHARED / "bad" / "list_attr_celeba.quota_page.html", tmp_path / "list_attr_celeba.txt")
    with pytest.raises(QuotaError, match=r"list_attr_celeba\.txt is not the data but a web page: .*quota"):
        open_celeba(tmp_path)
