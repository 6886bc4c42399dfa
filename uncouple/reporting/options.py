"""What is drawn."""

from typing import Annotated

from pydantic import Field

from uncouple.options import File, Section

Ratio = Annotated[float, Field(gt=0)]


class Figures(Section):
    """Options of the figures."""

    style: File = Field(
        "resources/figures.mplstyle", description="The matplotlib style file with all colours, sizes and fonts."
    )
    ratios: Annotated[list[Ratio], Field(min_length=2)] = Field(
        [3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3],
        description="Ratios of the figure that shows how many weights couple as the ratio grows.",
    )
