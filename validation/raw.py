"""Which suite guards which raw table. [yours]"""

from validation.raw_aircraft import AIRCRAFT
from validation.raw_flights import ARRIVALS, CANCELLATIONS, DEPARTURES, SCHEDULE
from validation.raw_weather import WEATHER

RAW_SUITES = {
    "schedule": SCHEDULE,
    "departures": DEPARTURES,
    "arrivals": ARRIVALS,
    "cancellations": CANCELLATIONS,
    "weather": WEATHER,
    "aircraft": AIRCRAFT,
}
