"""web.picture_parameters: the query of rendered resources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.archive.rendering.options import PictureOptions, Viewport
from engine.errors import RequestError
from engine.web.picture_parameters import rendered, thumbnail, wado_uri


def options(**query: str) -> PictureOptions:
    return rendered(query, "image/jpeg", frame=1)[0]


def test_without_parameters_the_whole_image_is_shown_unchanged() -> None:
    assert options() == PictureOptions(media_type="image/jpeg", frame=1)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("40,400,linear", (40, 400, "LINEAR")),
        ("40%2C400%2Clinear-exact", (40, 400, "LINEAR_EXACT")),
        ("-600.5,1500,SIGMOID", (-600.5, 1500, "SIGMOID")),
        ("40,400", (40, 400, "LINEAR")),
    ],
)
def test_a_window_is_center_width_function(text: str, window: tuple[float, float, str]) -> None:
    assert options(window=text).window == window


@pytest.mark.parametrize("text", ["40", "40,x", "40,400,cubic", "1,0.5,linear", "1,0,sigmoid", "nan,4", "1,2,linear,9"])
def test_an_invalid_window_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="window"):
        options(window=text)


@pytest.mark.parametrize(
    ("text", "viewport"),
    [
        ("100,50", Viewport(100, 50)),
        ("100%2C50", Viewport(100, 50)),
        ("10,10,1,2,30,-40", Viewport(10, 10, 1, 2, 30, -40)),
        ("10,10,,,30,", Viewport(10, 10, None, None, 30, None)),
    ],
)
def test_a_viewport_has_a_size_and_maybe_a_region(text: str, viewport: Viewport) -> None:
    assert options(viewport=text).viewport == viewport


@pytest.mark.parametrize("text", ["100", "0,1", "1.5,2", "99999,2", "1,2,3", "1,2,-3,0,1,1", "1,,2", "1,1,1,1,1,x"])
def test_an_invalid_viewport_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="viewport"):
        options(viewport=text)


@pytest.mark.parametrize("text", ["0", "101", "x", "1.5", "-3"])
def test_a_quality_beyond_its_scale_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="quality"):
        options(quality=text)


def test_unknown_annotations_are_warned_of_and_none_is_refused() -> None:
    there, warnings = rendered({"annotation": "patient,mood"}, "image/jpeg", frame=1)
    assert there.annotation == ("patient",)
    assert warnings == ["The following annotation values are not supported: mood"]
    with pytest.raises(RequestError, match="annotation"):
        options(annotation="")


def test_a_profile_needs_a_type_that_can_have_one() -> None:
    assert options(iccprofile="sRGB").icc_profile == "srgb"
    with pytest.raises(RequestError, match="iccprofile"):
        rendered({"iccprofile": "yes"}, "image/gif", frame=1)
    with pytest.raises(RequestError, match="iccprofile"):
        options(iccprofile="cmyk")


def test_a_presentation_state_takes_no_window_and_no_region() -> None:
    for query in ({"window": "1,2,linear"}, {"viewport": "1,1,1,1,1,1"}):
        with pytest.raises(RequestError, match="presentation"):
            rendered(query, "image/jpeg", frame=1, is_presentation=True)
    rendered({"viewport": "5,5"}, "image/jpeg", frame=1, is_presentation=True)


def test_a_thumbnail_has_a_size_only() -> None:
    assert thumbnail({}).viewport == Viewport(256, 256)
    assert thumbnail({"viewport": "64,64"}).viewport == Viewport(64, 64)
    assert thumbnail({}).is_thumbnail
    with pytest.raises(RequestError, match="viewport"):
        thumbnail({"viewport": "64,64,0,0,1,1"})


def test_wado_uri_has_its_own_parameter_names() -> None:
    there = wado_uri(
        {
            "windowCenter": "40",
            "windowWidth": "400",
            "region": "0.5,0,1,0.25",
            "rows": "64",
            "columns": "128",
            "frameNumber": "3",
            "imageQuality": "7",
            "annotation": "patient,mood",
        },
        "image/jpeg",
    )
    assert there.window == (40, 400, "LINEAR")
    assert there.viewport == Viewport(128, 64, 0.5, 0, 0.5, 0.25, is_relative=True)
    assert (there.frame, there.quality, there.annotation) == (3, 7, ("patient",))


def test_a_region_alone_is_not_scaled_up() -> None:
    there = wado_uri({"region": "0,0,0.5,0.5"}, "image/jpeg").viewport
    assert there is not None
    assert not there.is_enlarging


@pytest.mark.parametrize(
    "query",
    [
        {"windowCenter": "1"},
        {"windowWidth": "1"},
        {"windowWidth": "0", "windowCenter": "1"},
        {"region": "0,0,2,1"},
        {"region": "0.5,0,0.5,1"},
        {"region": "0,0,1"},
        {"rows": "0"},
        {"columns": "x"},
        {"frameNumber": "0"},
        {"imageQuality": "0"},
    ],
)
def test_parameters_that_wado_uri_forbids_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=next(iter(query))):
        wado_uri(query, "image/jpeg")


@given(st.dictionaries(st.sampled_from(["window", "viewport", "quality", "annotation", "iccprofile"]), st.text()))
def test_any_query_is_parsed_or_refused(query: dict[str, str]) -> None:
    try:
        rendered(query, "image/png", frame=None)
    except RequestError:
        pass
