"""What each model generation reads. A service never changes once a model was trained on it: a change gets a new name.

The tags name what the model also takes straight from the request (`key_features`, join keys used as categories) and
which views are the rows to predict (`spine`) and their outcome (`label`). [yours]
"""

from feast import FeatureService
from feature_views import OWNER, calendar, sensor_recent, sensor_same_hour, street_pace
from on_demand_feature_views import clock, paced

SERVICE_TAGS = {"spine": "sensor_hours", "label": "footfall", "key_features": "sensor"}

footfall_v1 = FeatureService(
    name="footfall_v1",
    features=[sensor_recent, sensor_same_hour, clock],
    description="How busy the sensor is, how busy this hour usually is, and the clock.",
    owner=OWNER,
    tags=SERVICE_TAGS,
)

footfall_v2 = FeatureService(
    name="footfall_v2",
    features=[sensor_recent, sensor_same_hour, street_pace, calendar, paced, clock],
    description="v1, the street's pace and the calendar.",
    owner=OWNER,
    tags=SERVICE_TAGS,
)
