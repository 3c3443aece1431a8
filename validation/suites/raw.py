"""Which suite guards which raw table. [yours]"""

from validation.suites.raw_aircraft import AIRCRAFT
from validation.suites.raw_flights import ARRIVALS, CANCELLATIONS, DEPARTURES, SCHEDULE
from validation.suites.raw_weather import WEATHER

RAW_SUITES = {
    "schedule": SCHEDULE,
    "departures": DEPARTURES,
    "arrivals": ARRIVALS,
    "cancellations": CANCELLATIONS,
    "weather": WEATHER,
    "aircraft": AIRCRAFT,
}
