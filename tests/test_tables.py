"""Spreadsheets of people joined to their scans: formats, ids, gaps, and everybody who is left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import phantoms
import pytest

from toolkit_datasets.card import Card, card_from, load_card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import prepare
from toolkit_datasets.samples import file_table, scan_images
from toolkit_datasets.tables import read_table

SEX = "SEX_ID (1=m, 2=f)"
FILES = [f"IXI{i:03d}-{'Guys' if i % 2 else 'HH'}-0{i:03d}-T1.nii.gz" for i in (2, 12, 13, 14, 15, 16)]
# As IXI.xls is: ids and codes as numbers, a row twice, two rows that disagree, no birth date, people without a scan.
ROWS = [(2, 2, 35.8), (12, 1, 38.78), (12, 1, 38.78), (13, 1, 46.71), (13, 2, 46.71), (14, 2, None), (15, 1, 24.28)]
IXI = pd.DataFrame([*ROWS, (99, 1, 50.0)], columns=["IXI_ID", SEX, "AGE"])


def ixi(*overrides: str) -> Card:
    return load_card("ixi", list(overrides))


def labels_of(card: Card, root: Path, table: Path | None = None) -> tuple[dict[str, str], Any]:
    scan = file_table(FILES, card, root, table)
    return dict(zip(scan.samples["group"], scan.samples["label"], strict=True)), scan


def _old_spreadsheet(path: Path) -> None:
    xlwt = pytest.importorskip("xlwt")
    book = xlwt.Workbook()
    sheet = book.add_sheet("Table")
    for column, name in enumerate(IXI.columns):
        sheet.write(0, column, name)
        for row, value in enumerate(IXI[name], start=1):
            if not pd.isna(value):
                sheet.write(row, column, float(value))
    book.save(str(path))


def write(path: Path) -> Path:
    if path.suffix == ".xls":
        _old_spreadsheet(path)
    elif path.suffix == ".xlsx":
        IXI.to_excel(path, index=False)
    else:
        IXI.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".xls", ".xlsx", ".csv", ".tsv"])
def test_ixi_s_spreadsheet_in_every_format(suffix: str, tmp_path: Path) -> None:
    table = write(tmp_path / f"IXI{suffix}")
    given = None if suffix != ".tsv" else table  # the card finds the others by name
    labels, scan = labels_of(ixi(), tmp_path, given)
    expected = {"IXI002": "female", "IXI012": "male", "IXI013": "", "IXI014": "female", "IXI015": "male", "IXI016": ""}
    assert labels == expected
    assert scan.exclusions == (
        ("IXI013", f"rows in conflict: {SEX} is male and female"),
        ("IXI016", f"no row in IXI{suffix}"),
    )
    assert scan.notes[0] == f"1 rows of IXI{suffix} match no file"
    for word in (
        "2 of 6 subjects have no label",
        "1 with rows in conflict (IXI013 (",
        f"1 with no row in IXI{suffix} (IXI016)",
    ):
        assert word in scan.notes[1]
    assert scan.demographics[SEX] == {"1": 3, "2": 3}


def test_age_is_another_column_and_codes_of_sex_do_not_apply_to_it(tmp_path: Path) -> None:
    write(tmp_path / "IXI.csv")
    card = ixi("labels.column=AGE", "labels.kind=continuous")
    labels, scan = labels_of(card, tmp_path)
    assert labels == {
        "IXI002": "35.8",
        "IXI012": "38.78",
        "IXI013": "46.71",
        "IXI014": "",
        "IXI015": "24.28",
        "IXI016": "",
    }
    assert dict(scan.exclusions)["IXI014"] == "no value in AGE"
    young = IXI.assign(AGE=1.0)  # would be "male" by the names of the sexes
    young.to_csv(tmp_path / "IXI.csv", index=False)
    assert labels_of(card, tmp_path)[0]["IXI002"] == "1.0"


def test_the_site_comes_from_the_name_with_and_without_a_table(tmp_path: Path) -> None:
    without, _ = labels_of(ixi("labels.column=site"), tmp_path)
    assert without["IXI002"] == "HH"
    assert without["IXI013"] == "Guys"
    write(tmp_path / "IXI.csv")
    labels, scan = labels_of(ixi("labels.column=site"), tmp_path)
    assert labels == without
    assert scan.demographics["AGE"]


def test_a_missing_table_only_removes_labels_unless_it_was_asked_for(tmp_path: Path) -> None:
    labels, scan = labels_of(ixi(), tmp_path)
    assert set(labels.values()) == {""}
    assert "no table IXI.xls or IXI.xlsx or IXI.csv in" in scan.notes[0]
    for card, given in ((ixi(), tmp_path / "x.csv"), (ixi(f"labels.table={tmp_path}/x.csv"), None)):
        with pytest.raises(ToolkitError, match=r"x\.csv cannot be read"):
            labels_of(card, tmp_path, given)


def test_an_id_column_that_does_not_fit_shows_both_sides(tmp_path: Path) -> None:
    """Copies of the table in the wild begin with a row counter."""
    IXI.assign(IXI_ID=range(500, 508)).to_csv(tmp_path / "IXI.csv", index=False)
    with pytest.raises(ToolkitError) as error:
        labels_of(ixi(), tmp_path)
    for word in ("IXI_ID", "'500' (read as 'IXI500')", "IXI002-HH-0002-T1.nii.gz", "'IXI012'", "labels.id_column"):
        assert word in str(error.value)
    with pytest.raises(ToolkitError, match=r"labels\.id_column = 'ID', but .* the columns IXI_ID, .*AGE"):
        labels_of(ixi("labels.id_column=ID"), tmp_path)
    with pytest.raises(ToolkitError, match=r"labels\.column = 'WEIGHT'"):
        labels_of(ixi("labels.column=WEIGHT"), tmp_path)


def test_ids_may_be_whole_names_of_files(tmp_path: Path) -> None:
    """Other tables of the same cohort name scans: `IXI013-Guys-0013-T1`, with and without the contrast."""
    table = tmp_path / "demog.csv"
    table.write_text("ID,Age,Sex\nIXI013-Guys-0013-T1,46.71,M\nIXI014-HH-0014,34.24,F\n")
    card = ixi("labels.id_column=ID", "labels.column=Sex", "labels.names={M='male'}")
    labels, _ = labels_of(card, tmp_path, table)
    assert (labels["IXI013"], labels["IXI014"], labels["IXI002"]) == ("male", "F", "")


def test_bids_participants_with_their_ways_to_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tgender\tgroup\nsub-02\t50\tm\tdepr\nsub-04\tn/a\tf\tdepr\nsub-5\t31\tf\tcontrol\n"
    )
    files = [f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz" for i in (2, 4, 6)]
    for column, expected in (
        ("gender", ["male", "female", ""]),
        ("group", ["depr", "depr", ""]),
        ("age", ["50", "", ""]),
    ):
        scan = file_table(files, load_card("ds002748", [f"labels.column={column}"]), tmp_path, None)
        assert scan.samples["label"].tolist() == expected
    assert scan.exclusions == (("sub-04", "no value in age"), ("sub-06", "no row in participants.tsv"))


def test_all_slices_of_a_subject_get_its_label(tmp_path: Path) -> None:
    for i, name in enumerate(FILES):
        phantoms.save(tmp_path / name, phantoms.head(seed=i), spacing=(4.5, 4.5, 5.0))
    write(tmp_path / "IXI.csv")
    prepared = prepare(ixi("slices.count=3"), tmp_path)
    by_subject = prepared.samples.groupby("group")["label"].agg(["nunique", "first"])
    assert (by_subject["nunique"] == 1).all()
    assert by_subject.loc["IXI012", "first"] == "male"
    assert by_subject.loc["IXI016", "first"] == ""


def test_numbers_that_are_none_name_the_table(tmp_path: Path) -> None:
    for i, name in enumerate(FILES):
        phantoms.save(tmp_path / name, phantoms.head(seed=i), spacing=(4.5, 4.5, 5.0))
    IXI.assign(AGE="about 40").to_csv(tmp_path / "IXI.csv", index=False)
    with pytest.raises(ToolkitError, match=r"IXI\.csv labels IXI002-HH-0002-T1\.nii\.gz 'about 40'"):
        prepare(ixi("slices.count=3", "labels.column=AGE", "labels.kind=continuous"), tmp_path)


def test_pictures_can_have_a_table_of_subjects_too(tmp_path: Path, write_pictures: Any) -> None:
    data = write_pictures(tmp_path / "d", [f"{p}_{k}.png" for p in ("anna", "bob", "eve") for k in range(2)])
    (tmp_path / "t.csv").write_text("subject,label\nanna,x\nbob,y\nbob,z\n")
    plain = {"title": "t", "source": {"patterns": [r"(?P<who>[a-z]+)_\d\.png"]}, "split": {"group": "who"}}
    scan = scan_images(data, card_from(plain, origin="test"), tmp_path / "t.csv")
    assert scan.samples["label"].tolist() == ["x", "x", "", "", "", ""]
    assert [name for name, _ in scan.exclusions] == ["bob", "eve"]
    assert "2 of 3 subjects" in scan.notes[0]


def test_in_a_table_of_files_every_word_is_a_class(tmp_path: Path, write_pictures: Any) -> None:
    data = write_pictures(tmp_path / "d", ["1.png", "2.png", "3.png"])
    (tmp_path / "t.csv").write_text("file,label\n1.png,na\n2.png,glioma\n3.png,\n")
    assert scan_images(data, load_card("folder"), tmp_path / "t.csv").samples["label"].tolist() == ["na", "glioma", ""]


@pytest.mark.parametrize(("suffix", "package"), [(".xls", "xlrd"), (".xlsx", "openpyxl")])
def test_a_missing_package_says_how_to_get_it(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / f"IXI{suffix}")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ToolkitError, match=rf"needs the package {package}: pip install 'vqvae-toolkit\[mri\]'"):
        read_table(table)


def test_a_spreadsheet_that_is_none(tmp_path: Path) -> None:
    for suffix in (".xls", ".xlsx"):
        (tmp_path / f"t{suffix}").write_text("IXI_ID,AGE\n2,35\n")
        with pytest.raises(ToolkitError, match=f"cannot be read as {suffix[1:].upper()}"):
            read_table(tmp_path / f"t{suffix}")


@pytest.mark.parametrize("text", ["IXI", "{", "{:03d}{:d}", "{name}"])
def test_an_id_format_needs_one_place_for_a_number(text: str) -> None:
    with pytest.raises(ToolkitError, match="one whole number"):
        load_card("ixi", [f"labels.id_format='{text}'"])
