"""Published results beside a measurement."""

from alitok.metrics.inception import OFFICIAL
from alitok.recipes.published import Generated, PublishedRow, applies, generation_table, reconstruction_table


def test_published_numbers_of_generators():
    table = generation_table()
    rows = {row.name: dict(zip(table.columns, row.values, strict=True)) for row in table.rows}
    assert list(table.columns[1:4]) == ["gFID, no guidance", "gFID, guided", "IS, guided"]
    for name, plain_gfid, gfid, score, speed in (
        ("AliTok-B", "2.40", "1.44", "319.5", ""),
        ("AliTok-L", "1.98", "1.38", "326.2", "10.1"),
        ("AliTok-XL", "1.88", "1.28", "306.3", "6.3"),
        ("LightningDiT", "2.17", "1.35", "295.3", "0.6"),
        ("RAR-XXL", "3.26", "1.48", "326.0", "5.0"),
        ("MAR-H", "2.35", "1.55", "303.7", "0.3"),
        ("VAR-d30", "", "1.92", "323.1", ""),
        ("LlamaGen-3B", "9.38", "2.18", "263.3", ""),
    ):
        assert list(rows[name].values())[1:] == [plain_gfid, gfid, score, speed]
    assert not any(row.measured for row in table.rows)
    for part in ("50,000 samples", "ADM", "official weights"):
        assert part in table.comparability


def test_the_measurement_comes_first_and_names_its_differences():
    table = generation_table(Generated("this evaluation", gfid=1.4449, inception_score=318.26), ("10,000 samples", "x"))
    assert table.rows[0] == PublishedRow("this evaluation", ("", "", "1.44", "318.3", ""), measured=True)
    assert sum(row.measured for row in table.rows) == 1
    assert table.comparability.endswith("Differences here: 10,000 samples; x.")


def test_published_numbers_of_reconstruction():
    table = reconstruction_table({"here, stage 1": 0.914, "here, stage 2": 0.856})
    assert table.rows[:2] == (
        PublishedRow("here, stage 1", ("", "", "0.91"), measured=True),
        PublishedRow("here, stage 2", ("", "", "0.86"), measured=True),
    )
    assert [row.values for row in table.rows[2:]] == [
        ("5.4 %", "2.96", "0.98"),
        ("11.2 %", "", "1.56"),
        ("10.7 %", "1.88", "1.07"),
        ("9.7 %", "1.86", "1.01"),
        ("10.2 %", "1.82", "1.02"),
        ("10.5 %", "1.47", "0.91"),
        ("10.5 %", "1.44", "0.86"),
    ]
    assert "validation" in table.comparability
    assert "Differences" not in table.comparability


def test_published_numbers_apply_only_to_their_kind():
    kind = {"classes": 1000, "image_size": 256, "network": OFFICIAL}
    assert applies(**kind)
    for change in ({"classes": 10}, {"image_size": 512}, {"network": "classifier-1a2b"}):
        assert not applies(**kind | change)
