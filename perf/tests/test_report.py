"""The arithmetic behind the figures, and the forms in which they are shown."""
import pathlib
import sys
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import plot  # noqa: E402  (the path above comes first)
import report  # noqa: E402
import tables  # noqa: E402

COMMIT = "0123456789abcdef"


def trial(contender, round_number, rate):
    return {"case": "c", "contender": contender, "round": round_number,
            "figures": {"rate": rate, "cpu_s": 1.0, report.CPU: 1.0 / rate, "background_cpu": 0.01, "steal_s": 0.0}}


def result(trials, commit=COMMIT, contenders=("nftables", "farside")):
    return report.summarized({
        "runs": [{"started": "2026-11-21T12:00:00+00:00", "rounds": 3, "seconds": 5}],
        "machine": {"cpu": "a <CPU> & more", "cpus": 2, "kernel": "6.18", "commit": commit, "virtual": "kvm", "modified": False,
                    "versions": {}},
        "complete": True, "absent": {"ipvs": "no ip_vs"}, "left_out": {},
        "cases": {"c": {"title": "a case", "work_unit": "gigabyte", "refusals": {},
                        "metrics": [{"name": "rate", "unit": "Gbit/s", "higher": True, "decimals": 2}]}},
        "contenders": {name: {"title": name, "ours": name == "farside"} for name in contenders},
        "trials": trials})


# The machine becomes slower from round to round, in equal parts for both.
DRIFTING = [trial("nftables", 1, 10.0), trial("farside", 1, 20.0), trial("nftables", 2, 5.0), trial("farside", 2, 10.0),
            trial("nftables", 3, 2.0), trial("farside", 3, 4.0)]


class Report(unittest.TestCase):
    def test_spread_is_median_lowest_and_highest(self):
        self.assertEqual(report.spread([3, 1, 10]), {"median": 3, "min": 1, "max": 10, "values": [3, 1, 10]})
        self.assertIsNone(report.spread([]))

    def test_percentile_is_a_value_that_occurred(self):
        self.assertEqual([report.percentile(range(1, 101), p) for p in (0, 50, 99, 99.9, 100)], [1, 50, 99, 100, 100])
        self.assertEqual(report.percentile([7], 99.9), 7)

    def test_a_ratio_is_of_one_round(self):
        self.assertEqual(report.ratio(DRIFTING, "c", "rate", "farside", "nftables"), 2.0)
        # A round that one of them lost does not count, nor one without a denominator.
        lossy = [trial("nftables", 1, 1.0), trial("farside", 1, 3.0), trial("farside", 2, 100.0)]
        self.assertEqual(report.ratio(lossy, "c", "rate", "farside", "nftables"), 3.0)
        self.assertIsNone(report.ratio(lossy[2:], "c", "rate", "farside", "nftables"))

    def test_groups_have_tables_of_their_own(self):
        whole = result(DRIFTING)
        whole["cases"]["d"] = {**whole["cases"]["c"], "group": "dns"}
        whole["contenders"].update({name: {"title": name, "ours": name != "gdnsd", "group": "dns"} for name in ("gdnsd", "farside-dns")})
        whole["trials"] += [{**trial(name, 1, rate), "case": "d"} for name, rate in (("gdnsd", 2.0), ("farside-dns", 3.0))]
        whole = report.summarized(whole)
        self.assertEqual(whole["summary"]["d"]["ratios"]["rate"], {"gdnsd": {"farside-dns": 2 / 3}, "farside-dns": {"gdnsd": 1.5}})
        for shown in (tables.text(whole), tables.markdown(whole)):
            lines = shown.splitlines()
            self.assertFalse(any("nftables" in line and "gdnsd" in line for line in lines))
            self.assertTrue(any("farside-dns / gdnsd" in line for line in lines))
            self.assertTrue(any("nftables" in line and "farside" in line for line in lines))

    def test_merged_runs_keep_their_rounds_apart(self):
        slow = [{**t, "figures": {**t["figures"], "rate": t["figures"]["rate"] / 4}} for t in DRIFTING]
        whole = report.merged([result(DRIFTING), result(slow)])
        self.assertEqual(whole["summary"]["c"]["ratios"]["rate"]["farside"]["nftables"], 2.0)
        self.assertEqual(sorted({t["round"] for t in whole["trials"]}), [1, 2, 3, 4, 5, 6])
        self.assertEqual(len(whole["summary"]["c"]["figures"]["farside"]["rate"]["values"]), 6)

    def test_runs_of_two_commits_are_not_merged(self):
        with self.assertRaisesRegex(ValueError, "different commit"):
            report.merged([result(DRIFTING), result(DRIFTING, commit="f" * 16)])


class Shown(unittest.TestCase):
    def test_text_has_medians_ratios_and_who_is_missing(self):
        text = tables.text(result(DRIFTING))
        for part in ("10.00 (4.00-20.00)", "farside / nftables", "2.00", "not here: ipvs: no ip_vs"):
            self.assertIn(part, text)

    def test_a_readme_has_its_figures_between_the_marks_only(self):
        document = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
        once = tables.between_marks(document, tables.markdown(result(DRIFTING)))
        self.assertEqual(once, tables.between_marks(once, tables.markdown(result(DRIFTING))))
        self.assertIn("| c, Gbit/s | 5.00 | 10.00 | 2.00 |", once)
        self.assertIn("](perf/results.svg)", tables.markdown(result(DRIFTING), "perf/results.svg"))
        self.assertTrue(once.startswith("before\n") and once.endswith("after\n") and "old" not in once)
        with self.assertRaises(ValueError):
            tables.between_marks("no marks", "figures")

    def test_the_picture_is_xml_with_a_bar_for_each(self):
        root = xml.etree.ElementTree.fromstring(plot.svg(result(DRIFTING)))
        bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("height") == str(plot.BAR)]
        widths = [float(bar.get("width")) for bar in bars]
        self.assertEqual(len(bars), 2)
        self.assertAlmostEqual(widths[1] / widths[0], 2.0, places=1)

    def test_a_case_without_a_figure_is_shown_as_failed(self):
        failed = [{"case": "c", "contender": "farside", "round": 1, "failure": "it died"}]
        self.assertIn("FAILED TRIALS: 1; the first: farside, c: it died", tables.text(result(failed)))
        xml.etree.ElementTree.fromstring(plot.svg(result(failed)))


if __name__ == "__main__":
    unittest.main()
