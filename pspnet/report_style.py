"""The report's style sheet: light and dark, narrow and wide, screen and paper."""

from __future__ import annotations

STYLE = """
:root { --page: #fff; --card: #f6f7f9; --ink: #1b1f24; --soft: #5c6670; --rule: #d9dee4; --accent: #0b63c5;
  --good: #1a7f37; --bad: #b42318; --warn: #fff4d6; --warn-ink: #6b4a00;
  --capture: #8a93a0; --pre: #2f9e8f; --infer: #0b63c5; --labels: #c77700; --sink: #8250a8; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2228; --ink: #e6e9ed; --soft: #9aa4b0;
  --rule: #343b44; --accent: #6cb0ff; --good: #57c46e; --bad: #ff8a7a; --warn: #3d3112; --warn-ink: #ffd97a;
  --capture: #7d8794; --pre: #45b8a8; --infer: #5aa2f5; --labels: #e0953a; --sink: #b184d6; } }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; --accent: #0b63c5;
  --good: #1a7f37; --bad: #b42318; --warn: #fff; --warn-ink: #000; }
  body { font-size: 10px; }
  .scroll { overflow: visible !important; }
  tr, figure, svg { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .pictures { grid-auto-flow: row !important; grid-template-columns: repeat(3, 1fr); }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 0 0 .75rem; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: .6rem .8rem;
  margin: 0 0 1.25rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.warning { background: var(--warn); color: var(--warn-ink); border-left: 4px solid; padding: .6rem .9rem;
  border-radius: 4px; }
.headline { font-size: 1.05rem; }
.note, .method { color: var(--soft); font-size: .88rem; }
.method { padding-left: 1.2rem; }
.method li { margin: .3rem 0; max-width: 62rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .4rem .65rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; font-size: .82rem; vertical-align: bottom; white-space: normal; }
th:first-child, .group th { text-align: left; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--page); }
thead th:first-child { position: sticky; left: 0; background: var(--page); }
thead tr + tr th:first-child { position: static; text-align: right; }
thead th[colspan] { text-align: center; border-bottom: 0; padding-bottom: 0; }
.group th { position: static; background: var(--card); }
.total th, .total td { border-top: 2px solid var(--rule); font-weight: 600; }
th small { display: block; font-size: .85em; font-weight: 400; color: var(--soft); }
td small { display: block; color: var(--soft); font-size: .82em; font-weight: 400; }
td small.worse { color: var(--bad); }
td small.better { color: var(--good); }
.absent { color: var(--soft); font-style: italic; white-space: normal; }
th:has(.stage) { white-space: nowrap; }
.bar { min-width: 180px; width: 30%; text-align: left; }
.bar div { display: flex; height: 1.1rem; margin-top: .2rem; }
.stage { display: inline-block; }
th .stage { width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
.stage.capture { background: var(--capture); }
.stage.pre { background: var(--pre); }
.stage.infer { background: var(--infer); }
.stage.labels { background: var(--labels); }
.stage.sink { background: var(--sink); }
.chip { display: inline-block; width: .85rem; height: .85rem; margin-right: .45rem; border-radius: 3px;
  border: 1px solid var(--soft); vertical-align: -.1rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0; margin: .5rem 0;
  font-size: .88rem; }
.plot { display: block; width: 100%; min-width: 560px; max-width: 900px; margin: 0 auto; font-size: 12px;
  fill: var(--ink); }
.plot .grid { stroke: var(--rule); stroke-width: 1; }
.plot .axis { stroke: var(--soft); fill: none; }
.plot .tick, .plot .title, .plot .detail { fill: var(--soft); }
.plot .name { font-weight: 600; }
.plot text { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
.plot .front { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-dasharray: 4 4; opacity: .6; }
.plot .mark line { stroke: var(--soft); stroke-width: 1.5; }
.plot .mark circle { fill: var(--page); stroke: var(--soft); stroke-width: 2; }
.plot .pareto line, .plot .pareto circle { stroke: var(--accent); }
.plot .pareto circle { fill: var(--accent); }
.plot .leader { stroke: var(--soft); stroke-width: 1; }
.pictures { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(205px, 1fr); gap: .6rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .82rem; padding-top: .2rem; }
"""
