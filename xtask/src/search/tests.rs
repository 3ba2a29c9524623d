//! Searching a small index, and its map in a browser.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::embed::tests::{encoder, index, photos};

fn arguments(folder: &Path) -> Arguments {
    Arguments {
        index: folder.join("a.safetensors"),
        query: None,
        run: None,
        weights: None,
        heads: None,
        like: Vec::new(),
        k: 2,
        classify: false,
        duplicates: None,
        map: None,
        data: None,
        split: Portion::Train,
        points: 2000,
        thumb: 16,
        seed: 0,
        batch: 4,
        device: "cpu".into(),
        workers: 0,
    }
}

fn indexed() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    photos(&folder.path().join("photos"))?;
    std::fs::copy(
        folder.path().join("photos/even/0, \"a\".png"),
        folder.path().join("photos/odd/copy of 0.png"),
    )?;
    index(folder.path(), "a.safetensors")?;
    Ok(folder)
}

#[test]
fn neighbours_classes_and_duplicates() -> Result<()> {
    let folder = indexed()?;
    let place = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let like = Arguments { like: vec!["even/0, \"a\".png".into()], ..arguments(folder.path()) };
    let first = text(&like)?.lines().next().unwrap_or_default().to_string();
    assert_eq!(first, "even/0, \"a\".png\t1\t1.0000\todd/copy of 0.png\todd");
    assert_eq!(text(&like)?.lines().count(), 2);
    let query = Arguments {
        query: Some(place("photos/even")),
        weights: Some(place("net")),
        k: 1,
        ..arguments(folder.path())
    };
    let found = text(&query)?;
    assert!(found.contains("2, \"a\".png\t1\t1.0000\teven/2, \"a\".png\teven\n"), "{found}");
    assert_eq!(found.lines().count(), 3);
    let classes = text(&Arguments { classify: true, ..query })?;
    assert!(classes.contains("4, \"a\".png\teven\t1.000\n"), "{classes}");
    let same = text(&Arguments { duplicates: Some(0.9999), ..arguments(folder.path()) })?;
    assert!(same.contains("1\t1.0000\teven/0, \"a\".png\n1\t1.0000\todd/copy of 0.png\n"), "{same}");

    let message = |arguments: &Arguments| text(arguments).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(message(&arguments(folder.path())).contains("--query"));
    let absent = Arguments { like: vec!["none".into()], ..arguments(folder.path()) };
    assert!(message(&absent).contains("has no `none`"), "{}", message(&absent));
    encoder(&folder.path().join("other"), 9)?;
    let other =
        Arguments { query: Some(place("photos")), weights: Some(place("other")), ..arguments(folder.path()) };
    assert!(message(&other).contains("other weights"), "{}", message(&other));
    let other =
        Arguments { map: Some(place("m.html").into()), data: Some(place("net")), ..arguments(folder.path()) };
    assert!(message(&other).contains("net"), "{}", message(&other));
    Ok(())
}

/// A page with its index.
fn page(folder: &Path) -> Result<String> {
    let map = Arguments {
        map: Some(folder.join("map.html")),
        data: Some(folder.join("photos").to_string_lossy().into_owned()),
        ..arguments(folder)
    };
    text(&map)?;
    Ok(std::fs::read_to_string(folder.join("map.html"))?)
}

#[test]
fn a_page_is_one_file_without_addresses() -> Result<()> {
    let folder = indexed()?;
    let html = page(folder.path())?;
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("src=\""));
    assert_eq!(html.matches("data:image/jpeg;base64,").count(), 1);
    assert!(html.contains("even/0, \\\"a\\\".png"));
    // The same call, the same bytes.
    assert_eq!(page(folder.path())?, html);
    Ok(())
}

/// A browser that can run without a screen.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    names
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()))
}

/// What the page does in a browser: a click shows the neighbours, the wheel zooms, a name is found.
const SCRIPT: &str = r#"<script>
window.addEventListener("load", () => setTimeout(() => {
  const plane = document.getElementById("plane"), box = plane.getBoundingClientRect();
  const data = JSON.parse(document.getElementById("data").textContent);
  const unit = Math.min(box.width, box.height) * 0.9;
  const at = (i) => ({
    clientX: box.left + box.width / 2 + (data.points[i][0] - 0.5) * unit,
    clientY: box.top + box.height / 2 + (data.points[i][1] - 0.5) * unit,
    bubbles: true, cancelable: true,
  });
  plane.dispatchEvent(new PointerEvent("pointerdown", at(3)));
  window.dispatchEvent(new PointerEvent("pointerup", at(3)));
  document.body.dataset.clicked = location.hash;
  plane.dispatchEvent(new WheelEvent("wheel", { ...at(3), deltaY: -500 }));
  const find = document.getElementById("find");
  find.value = "COPY";
  find.dispatchEvent(new Event("input"));
  const pixel = plane.getContext("2d").getImageData(0, 0, plane.width, plane.height).data;
  document.body.dataset.drawn = pixel.some((value) => value > 0);
}, 50));
</script></body>"#;

#[test]
fn the_page_works_in_a_browser() -> Result<()> {
    let Some(browser) = browser() else {
        println!("skipped: no chromium is installed");
        return Ok(());
    };
    let folder = indexed()?;
    let html = page(folder.path())?.replace("</body>", SCRIPT);
    let path = folder.path().join("driven.html");
    std::fs::write(&path, html)?;
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,700"])
        .args(["--virtual-time-budget=5000", "--dump-dom", &profile])
        .arg(format!("file://{}", path.display()))
        .output()?;
    let dom = String::from_utf8_lossy(&output.stdout);
    let body = dom.rfind("<body").map_or("", |start| &dom[start..]);
    let shown = body.rfind("</script>").map_or(body, |_| &body[..body.len().min(4000)]);
    assert!(body.contains("data-clicked=\"#3\""), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(body.contains("data-drawn=\"true\""), "{shown}");
    // exp(500 * 0.002).
    assert!(body.contains("data-scale=\"2.7183\""), "{shown}");
    let list = |id: &str| {
        let start = body.find(&format!("<ol id=\"{id}\">")).unwrap_or_default();
        body[start..].split("</ol>").next().unwrap_or_default().to_string()
    };
    // All others are neighbours, the nearest first.
    let neighbours = list("neighbours");
    assert_eq!(neighbours.matches("<li data-index=").count(), 5, "{neighbours}");
    assert!(list("found").contains("copy of 0.png"), "{}", list("found"));
    Ok(())
}
