"""The page of a report in a real browser: it draws, its menu and legend work, and it is silent.

python -m pip install -r tests/requirements-page.txt
"""

import shutil

import pytest
from test_tables import TASKS, plan, results  # noqa: F401

from experiments.report import write

browser = next(filter(None, map(shutil.which, ('chromium', 'google-chrome', 'chrome'))), None)


@pytest.mark.skipif(browser is None, reason='there is no Chromium, see requirements-page.txt')
def test_a_reader_chooses_task_and_methods(plan, results, tmp_path):  # noqa: F811
    api = pytest.importorskip('playwright.sync_api', reason='see tests/requirements-page.txt')
    paths = write(plan, results, tmp_path / 'out', with_published=False)
    (path,) = (path for path in paths if path.suffix == '.html')
    errors = []
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=['--no-sandbox'])
        page = chromium.new_page()
        page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('request', lambda r: errors.append(r.url) if r.url.startswith('http') else None)
        page.goto(path.as_uri())

        def shown():
            script = """() => document.getElementById("curves").data
                .filter(x => x.visible === true && x.showlegend !== false)
                .map(x => [x.name, x.y.length])"""
            return page.evaluate(script)

        before = shown()
        page.screenshot(path=tmp_path / 'page.png', full_page=True)  # for people
        page.locator('.updatemenu-header').click()
        page.locator('.updatemenu-dropdown-button', has_text=TASKS[1]).click()
        page.wait_for_timeout(500)
        other = shown()
        page.locator('.legendtoggle').first.click()
        page.wait_for_timeout(500)
        fewer = shown()
        chromium.close()
    assert [name for name, _ in before] == ['QC-BFN', 'MVP', 'DFP']
    assert [name for name, _ in other] == ['MVP', 'DFP']
    assert len(fewer) == 1
    assert errors == []
