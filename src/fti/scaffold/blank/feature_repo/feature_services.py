"""What each model generation reads. A service never changes once a model was trained on it: a change gets a new name.

The tags name the rows to predict (`spine`), their outcome (`label`), and the join keys that the model takes as inputs
too (`key_features`). [yours]
"""

from feast import FeatureService
from feature_views import OWNER, shop_recent
from on_demand_feature_views import clock

visitors_v1 = FeatureService(
    name="visitors_v1",
    features=[shop_recent, clock],
    description="How busy the shop has been, and the clock.",
    owner=OWNER,
    tags={"spine": "shop_hours", "label": "shop_visitors", "key_features": "shop"},
)
