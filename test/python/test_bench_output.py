"""What the benchmark leaves behind: files, tables, pictures, the README's section."""

import struct

import pytest

from bench_record import full_record, record, result, run
from helpers import ROOT

import plot
import readme
import report
import store


def test_a_file_holds_what_was_measured(tmp_path):
    path = tmp_path / "r.json"
    measured = record(run([result(2.0, inductor=1.5), result(3.0, operation="eval")]),
                      run([result(2.5)], "warm"))
    store.save(path, measured)
    assert store.load(path) == measured


def test_a_full_run_stays_small(tmp_path):
    path = tmp_path / "r.json"
    measured = full_record()
    store.save(path, measured)
    assert path.stat().st_size < 200_000
    assert store.load(path) == measured


def test_merging_keeps_every_run():
    runs = [run([result()], malloc) for malloc in ("default", "warm")]
    merged = store.merge([record(one) for one in runs])
    assert merged["runs"] == runs and merged["device_model"] == "Chip"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fields": ["other"]}'])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"^r\.json cannot be read"):
        store.load(path)
    with pytest.raises(SystemExit, match=r"^none\.json cannot be read: No such file"):
        store.load(tmp_path / "none.json")


def test_the_mean_comes_with_the_worst_case():
    big = (1024, 2**14)
    measured = record(run([result(4.0), result(0.25, (9, 9)), result(3.0, operation="eval"),
                           result(8.0, big, inductor=2.0)]))
    everything = [t for t in report.targets(measured) if t["scope"] == report.EVERYTHING]
    assert [t["operation"] for t in everything] == ["train", "eval"]
    assert everything[0]["mean"] == pytest.approx(2 ** (1 / 3), abs=1e-3)
    assert (everything[0]["worst"], everything[0]["worst_case"]) == (0.25, "9x9 channels_first")
    assert (everything[0]["lost"], everything[0]["cases"]) == (1, 3)
    assert everything[0]["of_floor"] == 0.5
    beyond = [t for t in report.targets(measured) if t["scope"] == report.BEYOND]
    assert [(t["operation"], t["cases"], t["worst"]) for t in beyond] == [("train", 1, 2)]
    assert {t["scope"] for t in report.targets({**measured, "last_level_cache_bytes": None})} == {
        report.EVERYTHING}


def test_the_tables_show_every_case():
    measured = record(run([result(4.0), result(0.25, (9, 9), inductor=0.5)]))
    for markdown in (False, True):
        text = report.text(measured, markdown)
        assert all(words in text for words in ("9x9", "0.25", "Chip", "Inductor", "1 of 2"))
    header, rows, names = report.cases_table(measured)
    assert all(len(row) == len(header) for row in rows) and header[:names] == [
        "operation", "dtype", "shape", "layout"]
    assert "-" in rows[0]  # no such peer there


def test_runs_stand_side_by_side():
    measured = record(run([result(4.0)]), run([result(3.0), result(2.0, (5, 5))], "warm"),
                      run([result(7.0)], "warm", 1))
    assert [report.label(r, measured) for r in measured["runs"]] == [
        "default, 2 threads", "warm, 2 threads", "warm, 1 thread"]
    header, rows, _ = report.cases_table(measured)
    ratios = [i for i, name in enumerate(header) if name.endswith("ATen /")]
    assert [[row[i] for i in ratios] for row in rows] == [["4.00", "3.00", "7.00"],
                                                          ["-", "2.00", "-"]]
    _, rows, names = report.targets_table(measured, report.EVERYTHING)
    assert [row[names] for row in rows] == ["4.00"]
    lines = [line for line in report.text(measured, markdown=True).splitlines()
             if line.startswith("| train")]
    assert len(lines) == 3  # two cases, and their target


def test_notes_are_shown_once():
    noted = {**run([result()]), "notes": ["without inductor: no compiler"]}
    text = report.text(record(noted, {**noted, "malloc": "warm"}))
    assert text.count("Note: without inductor: no compiler.") == 1


def test_durations_have_a_fitting_unit():
    assert [report.duration(t) for t in (2e6, 12300, 45, 0.02)] == ["2 s", "12.3 ms", "45 us",
                                                                    "0.02 us"]


def test_pictures_are_drawn(tmp_path, capsys):
    path = tmp_path / "r.json"
    store.save(path, record(run([result(4.0, inductor=2.0), result(0.25, (9, 9, 5)),
                                 result(2.0, (9, 9, 5), layout="channels_last")])))
    plot.main([str(path), "--out", str(tmp_path / "pictures")])
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["ratio_train.png", "roofline_float32.png"]
    assert capsys.readouterr().out.split() == ["ratio_train.png", "roofline_float32.png"]
    for picture in pictures:
        content = picture.read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        assert content.startswith(b"\x89PNG") and len(content) > 5000
        assert min(width, height) > 200


def test_each_run_has_pictures_of_its_own(tmp_path, monkeypatch):
    for kind in ("draw_ratios", "draw_roofline"):
        monkeypatch.setattr(plot, kind, lambda *_: None)
    drawn = plot.draw(record(run([result()]), run([result()], "warm")), tmp_path)
    assert [p.name for p in drawn] == ["ratio_train_default.png", "roofline_float32_default.png",
                                       "ratio_train_warm.png", "roofline_float32_warm.png"]


def test_the_readme_has_tables_for_each_number_of_threads():
    measured = record(run([result(4.0)]), run([result(3.0)], "warm"), run([result(7.0)], "warm", 1))
    text = readme.section(measured)
    two, one = text.split("All shapes, 1 thread:")
    assert "All shapes, 2 threads:" in two
    assert "4.00" in two and "3.00" in two and "7.00" not in two
    assert "7.00" in one and "3.00" not in one


def test_the_readme_is_written_between_its_markers(tmp_path):
    path, page = tmp_path / "r.json", tmp_path / "README.md"
    store.save(path, record(run([result(4.0)]), run([result(3.0)], "warm")))
    page.write_text(f"before\n{readme.SECTION.begin}\nold\n{readme.SECTION.end}\nafter\n")
    arguments = [str(path), "--readme", str(page)]
    with pytest.raises(SystemExit, match="out of date"):
        readme.main([*arguments, "--check"])
    readme.main(arguments)
    once = page.read_text()
    assert once.startswith("before\n") and once.endswith("after\n") and "old" not in once
    assert "`scripts/bench.sh` on Chip, 2 threads" in once and "| train | channels_first |" in once
    readme.main(arguments)
    assert page.read_text() == once
    with pytest.raises(SystemExit) as ended:
        readme.main([*arguments, "--check"])
    assert not ended.value.code


def test_calls_have_a_section_with_every_case_of_every_result(tmp_path):
    page, paths = tmp_path / "README.md", [tmp_path / name for name in ("a.json", "b.json")]
    for path, ratio in zip(paths, (4.0, 3.0), strict=True):
        store.save(path, record(run([result(ratio)])))
    page.write_text(f"{readme.CALLS.begin}\n{readme.CALLS.end}\n")
    arguments = [*map(str, paths), "--calls", "--readme", str(page)]
    readme.main(arguments)
    text = page.read_text()
    assert text.count("`scripts/bench.sh` on Chip") == text.count("| operation |") == 2
    assert "| 4.00 |" in text and "| 3.00 |" in text
    with pytest.raises(SystemExit) as ended:
        readme.main([*arguments, "--check"])
    assert not ended.value.code


def test_a_gpu_has_a_section_with_every_operation(tmp_path):
    path, page = tmp_path / "r.json", tmp_path / "README.md"
    measured = run([result(4.0), result(1.0, (9, 9)), result(3.0, operation="eval")])
    measured["left_out"] = ["9x9 channels_last float32 train"]
    store.save(path, record(measured))
    page.write_text(f"{readme.GPU.begin}\n{readme.GPU.end}\n")
    readme.main([str(path), "--gpu", "--readme", str(page)])
    text = page.read_text()
    assert "| train | 2.00 | 1.00 |" in text and "| eval | 3.00 |" in text
    assert "Left out: 1 cases, from 9x9 channels_last float32 train on" in text


def test_two_results_need_the_section_of_calls(tmp_path):
    path = tmp_path / "r.json"
    store.save(path, record(run([result()])))
    with pytest.raises(SystemExit):
        readme.main([str(path), str(path)])


def test_a_readme_without_markers_is_left_alone(tmp_path):
    path, page = tmp_path / "r.json", tmp_path / "README.md"
    store.save(path, record(run([result()])))
    page.write_text(f"{readme.SECTION.end}\n{readme.SECTION.begin}\n")
    with pytest.raises(SystemExit, match="needs these lines"):
        readme.main([str(path), "--readme", str(page)])
    assert page.read_text() == f"{readme.SECTION.end}\n{readme.SECTION.begin}\n"


def test_the_readme_of_the_repository_has_the_markers():
    for section in (readme.SECTION, readme.CALLS, readme.GPU):
        section.replace((ROOT / "README.md").read_text(), "anything\n")


def test_the_readme_of_the_repository_shows_committed_results():
    def is_current(*arguments):
        with pytest.raises(SystemExit) as ended:
            readme.main([*map(str, arguments), "--check"])
        return not ended.value.code

    results = ROOT / "scripts" / "bench" / "results"
    assert any(is_current(path) for path in results.glob("bench_*.json"))
    assert is_current("--calls", *sorted(results.glob("calls_*.json")))
    assert any(is_current("--gpu", path) for path in results.glob("bench_nvidia_*.json"))
