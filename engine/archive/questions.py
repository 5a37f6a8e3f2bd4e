"""Names that a front end needs for queries: the queries, their keys as people write them, and the matches.

Make a query from names and texts, and pass it to `Archive.find_steps`. The index defines its meaning.
"""

from __future__ import annotations

from engine.index.format.types import ArrivalFact as ArrivalFact
from engine.index.format.types import Bookmark as Bookmark
from engine.index.format.types import Level as Level
from engine.index.format.types import Match as Match
from engine.index.format.types import Order as Order
from engine.index.format.types import PlacedMatch as PlacedMatch
from engine.index.format.types import Query as Query
from engine.index.query.explanation import Explanation as Explanation
from engine.index.query.keywords import Keys as Keys
from engine.index.query.keywords import is_indexed as is_indexed
from engine.index.query.keywords import matches_all as matches_all
from engine.index.query.keywords import path_of as path_of
from engine.index.query.keywords import query_of as query_of
from engine.index.query.keywords import set_key as set_key
from engine.index.query.plan import COMPUTED as COMPUTED
from engine.index.query.plan import level_of as level_of
from engine.index.query.private_attributes import vr_of_key as vr_of_key
