"""Runs everything here and says at the end how many passed and how many failed."""

import sys
import time
import unittest
from pathlib import Path


class Timed(unittest.TextTestResult):
    """Knows how long each test took."""

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()

    def stopTest(self, test):
        super().stopTest(test)
        self.times = getattr(self, "times", [])
        self.times.append((time.monotonic() - self.started, test.id()))


def main():
    here = Path(__file__).resolve().parent
    sys.path.insert(0, str(here))
    names = sys.argv[1:]
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(names) if names else loader.discover(str(here))
    result = unittest.TextTestRunner(verbosity=2, resultclass=Timed).run(suite)
    for seconds, name in sorted(getattr(result, "times", []), reverse=True)[:10]:
        print(f"{seconds:6.1f} s  {name}", file=sys.stderr)
    # Several parts of one test may fail, and a class's set-up is no test.
    failed = {case.id().split(" ")[0] for case, _ in result.failures + result.errors}
    failed |= {case.id() for case in result.unexpectedSuccesses}
    broken = [case for case in failed if "setUpClass" in case or "tearDownClass" in case]
    passed = result.testsRun - len(failed) + len(broken) - len(result.skipped)
    print(f"{max(passed, 0)} passed, {len(failed) + len(result.skipped)} failed")
    return 1 if failed or result.skipped or result.testsRun == 0 else 0


sys.exit(main())
