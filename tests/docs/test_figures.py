"""Figures agree with the code."""

import xml.etree.ElementTree as ET

import grimp
import pytest
from draw import depths, house_svg, method_svg, read_house, steps_svg

from alitok.run.steps import STEPS


@pytest.fixture(scope="module")
def house():
    return read_house()


def words(image):
    """All texts of an SVG, which is well-formed."""
    return [element.text for element in ET.fromstring(image).iter() if element.text and element.text.strip()]


def test_every_package_is_on_a_floor_and_in_the_figure(house, root):
    source = root / "src" / "alitok"
    found = {path.stem for path in source.glob("*.py")} | {path.parent.name for path in source.glob("*/__init__.py")}
    assert set(house.packages) == found - {"__init__"}
    texts = words(house_svg(house))
    assert all(
        texts.count(name) + texts.count(f"{name}/") == 3 for name in house.packages
    )  # the box, the row, the column


def test_imports_are_those_that_import_linter_sees(house):
    graph = grimp.build_graph("alitok", cache_dir=None)
    inside = {name: {f"alitok.{name}", *graph.find_descendants(f"alitok.{name}")} for name in house.packages}
    for high, modules in inside.items():
        imported = [graph.find_modules_directly_imported_by(module) for module in modules]
        for low in house.packages:
            if high != low:
                count = sum(bool(found & inside[low]) for found in imported)
                assert house.imports.get((high, low), 0) == count, (high, low)


def test_every_import_goes_down_and_is_counted_in_the_figure(house):
    floor = {name: place for place, names in enumerate(house.floors) for name in names}
    image = house_svg(house)
    for (high, low), count in house.imports.items():
        assert floor[high] < floor[low]
        assert f"{high} imports {low} in {count} of its modules" in image


def test_lines_are_the_transitive_reduction_of_imports(house):
    needed = set(house.needed())

    def reached(high, low):
        return (high, low) in needed or any(reached(between, low) for first, between in needed if first == high)

    assert needed <= set(house.imports)
    assert all(reached(high, low) for high, low in house.imports)
    for line in needed:
        rest = needed - {line}
        assert not any(line[0] == high and reaches(rest, low, line[1]) for high, low in rest)


def reaches(lines, high, low):
    return high == low or any(first == high and reaches(lines, second, low) for first, second in lines)


def test_every_step_and_its_products_are_in_the_figure():
    text = " ".join(" ".join(words(steps_svg())).split())
    for step in STEPS.values():
        assert step.title in text
        assert all(product in text for product in step.products)
        assert all(setting.rpartition(".")[2] in text for setting in step.settings)


def test_a_step_is_below_everything_it_needs():
    depth = depths(STEPS)
    assert all(depth[need] < depth[name] for name, step in STEPS.items() for need in step.needs)


def test_boxes_of_steps_do_not_overlap():
    rectangles = [
        tuple(float(element.get(key)) for key in ("x", "y", "width", "height"))
        for element in ET.fromstring(steps_svg()).iter()
        if element.get("class") == "ground"
    ]
    assert len(rectangles) == len(STEPS)
    for number, (x, y, width, height) in enumerate(rectangles):
        for left, top, wide, high in rectangles[:number]:
            assert x >= left + wide or left >= x + width or y >= top + high or top >= y + height


def test_the_figure_of_the_readme_is_up_to_date(root):
    assert (root / "docs/images/method.svg").read_text("utf-8") == method_svg(), (
        "write method_svg() of docs/draw.py there"
    )
