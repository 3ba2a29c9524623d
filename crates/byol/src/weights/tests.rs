use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use contrastive_core::nn::{BackboneConfig, Mode, Module, Padding, Shortcut, Stem};
use contrastive_core::weights::{Pretrained, save_named};
use contrastive_testing::formula;

use super::*;

const WIDTH: usize = 4;

/// The values of a leaf, by the formula of `fixtures/make_haiku.py`.
fn values(module: &str, leaf: &str, dims: &[usize]) -> Vec<f32> {
    let bare: Vec<&str> = module.split('/').filter(|part| *part != "~").collect();
    let fan_in: usize = dims.iter().rev().skip(1).product();
    let scale = |u: f64| match leaf {
        "w" => u * (6.0 / fan_in as f64).sqrt(),
        "scale" => 1.0 + 0.25 * u,
        _ if module.contains("var_ema") => 1.0 + 0.5 * u,
        _ => 0.25 * u,
    };
    let name = format!("{}.{leaf}", bare.join("/"));
    formula(&name, dims.iter().product()).into_iter().map(|u| scale(u) as f32).collect()
}

/// Modules, and leaves with their values.
type Tree = BTreeMap<String, BTreeMap<&'static str, (Vec<usize>, Vec<f32>)>>;

fn put(tree: &mut Tree, module: &str, leaf: &'static str, dims: &[usize]) {
    let values = values(module, leaf, dims);
    tree.entry(module.to_string()).or_default().insert(leaf, (dims.to_vec(), values));
}

/// Parameters and state of Haiku's ResNet-18 with BYOL's heads.
fn trees() -> (Tree, Tree) {
    let (mut params, mut state) = (Tree::new(), Tree::new());
    let mut norm = |params: &mut Tree, module: &str, dims: &[usize]| {
        put(params, module, "scale", dims);
        put(params, module, "offset", dims);
        for average in ["mean_ema", "var_ema"] {
            for leaf in ["average", "hidden"] {
                put(&mut state, &format!("{module}/~/{average}"), leaf, dims);
            }
            put(&mut state, &format!("{module}/~/{average}"), "counter", &[]);
        }
    };
    let torso = "res_net18/~";
    put(&mut params, &format!("{torso}/initial_conv"), "w", &[7, 7, 3, WIDTH]);
    norm(&mut params, &format!("{torso}/initial_batchnorm"), &[1, 1, 1, WIDTH]);
    let mut inputs = WIDTH;
    for group in 0..4 {
        let width = WIDTH << group;
        for block in 0..2 {
            let at = format!("{torso}/block_group_{group}/~/block_{block}/~");
            for (i, inputs) in [inputs, width].into_iter().enumerate() {
                put(&mut params, &format!("{at}/conv_{i}"), "w", &[3, 3, inputs, width]);
                norm(&mut params, &format!("{at}/batchnorm_{i}"), &[1, 1, 1, width]);
            }
            if block == 0 {
                put(&mut params, &format!("{at}/shortcut_conv"), "w", &[1, 1, inputs, width]);
                norm(&mut params, &format!("{at}/shortcut_batchnorm"), &[1, 1, 1, width]);
            }
            inputs = width;
        }
    }
    for (head, inputs) in [("projector", inputs), ("predictor", 3)] {
        put(&mut params, &format!("{head}/linear"), "w", &[inputs, 5]);
        put(&mut params, &format!("{head}/linear"), "b", &[5]);
        norm(&mut params, &format!("{head}/batch_norm"), &[1, 5]);
        put(&mut params, &format!("{head}/linear_1"), "w", &[5, 3]);
    }
    put(&mut params, "classifier", "w", &[inputs, 2]);
    put(&mut params, "classifier", "b", &[2]);
    (params, state)
}

/// A pickle of protocol 2, as BYOL's code writes them: byte strings are texts.
#[derive(Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn array(&mut self, dims: &[usize], values: &[f32]) {
        self.0.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01(");
        dims.iter().for_each(|&d| self.0.extend([b'K', d as u8]));
        self.0.extend(b"tcnumpy\ndtype\n(");
        self.text("f4");
        self.0.extend(
            b"K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89c_codecs\nencode\n(",
        );
        let text: String = values.iter().flat_map(|v| v.to_le_bytes()).map(char::from).collect();
        self.text(&text);
        self.text("latin1");
        self.0.extend(b"tRtb");
    }

    fn tree(&mut self, tree: &Tree) {
        self.0.push(b'}');
        for (module, leaves) in tree {
            self.text(module);
            self.0.push(b'}');
            for (leaf, (dims, values)) in leaves {
                self.text(leaf);
                self.array(dims, values);
                self.0.push(b's');
            }
            self.0.push(b's');
        }
    }

    /// The whole checkpoint.
    fn checkpoint(online: &[&Tree; 2], target: &[&Tree; 2]) -> Vec<u8> {
        let mut pickle = Self(b"\x80\x02}".to_vec());
        pickle.text("experiment_state");
        pickle.0.extend(b"cbyol.byol_experiment\n_ByolExperimentState\n(");
        for tree in [online[0], target[0], online[1], target[1]] {
            pickle.tree(tree);
        }
        pickle.0.extend(b"coptax._src.base\nEmptyState\n)\x81t\x81s");
        pickle.text("step");
        pickle.0.extend(b"K\x05s.");
        pickle.0
    }
}

#[test]
fn haikus_network_has_haikus_features() -> anyhow::Result<()> {
    #[derive(serde::Deserialize)]
    struct Golden {
        features: BTreeMap<String, Vec<f32>>,
    }
    let golden: Golden = serde_json::from_str(include_str!("../../tests/fixtures/haiku.json"))?;
    let (params, state) = trees();
    let mut average = params.clone();
    average.values_mut().flat_map(|leaves| leaves.values_mut()).for_each(|(_, values)| values[0] += 0.5);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pretrain_res18.pkl");
    std::fs::write(&file, Pickle::checkpoint(&[&params, &state], &[&average, &state]))?;
    let mut checkpoint = Checkpoint::open(&file)?;
    let named = from_haiku(&mut checkpoint, None)?;
    let mut heads: Vec<&str> = named.heads.iter().map(|(name, _)| name.as_str()).collect();
    heads.sort_unstable();
    let expected = ["predictor", "projector"].map(|head| {
        ["0.bias", "0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight", "3.weight"]
            .map(|leaf| format!("{head}.{leaf}"))
    });
    assert_eq!(heads, expected.concat());
    let out = folder.path().join("out");
    save_named(&named, &file, &out)?;
    let read = Pretrained::open(&out, Hints::default())?;
    // The manifest alone says how convolutions and pool are padded.
    let BackboneConfig::Resnet(config) = read.config else { panic!("{}", read.config) };
    assert_eq!((config.stem, config.padding), (Stem::ImagenetSame, Padding::Same));
    assert_eq!((config.shortcut, config.base_width), (Shortcut::ProjectFirst, WIDTH));
    let (backbone, _) = read.build(&Device::Cpu)?;
    for (side, theirs) in &golden.features {
        let side: usize = side.parse()?;
        let x: Vec<f32> = formula("input", 3 * side * side).into_iter().map(|u| u as f32).collect();
        let x = Tensor::from_vec(x, (1, 3, side, side), &Device::Cpu)?;
        let features = backbone.forward(&x, &Mode::eval())?.flatten_all()?.to_vec1::<f32>()?;
        let largest = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert_eq!(features.len(), theirs.len());
        for (ours, theirs) in features.iter().zip(theirs) {
            assert!((ours - theirs).abs() <= 1e-4 * largest, "{side} pixels: {ours} {theirs}");
        }
    }
    // The moving average lies beside it.
    let target = from_haiku(&mut checkpoint, Some("target"))?;
    let first = |named: &Named| -> Result<f32> {
        let found = named.backbone.iter().find(|(name, _)| name == "bn1.bias");
        Ok(found.map_or(Ok(0.0), |(_, t)| t.get(0)?.to_scalar())?)
    };
    assert!((first(&target)? - first(&named)? - 0.5).abs() < 1e-6);
    assert!(
        from_haiku(&mut checkpoint, Some("teacher")).is_err_and(|e| e.to_string().contains("online, target"))
    );
    Ok(())
}

#[test]
fn another_pickle_is_told_what_it_lacks() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("other.pkl");
    let mut tree = Tree::new();
    put(&mut tree, "linear", "w", &[2, 3]);
    std::fs::write(&file, Pickle::checkpoint(&[&tree, &tree], &[&tree, &tree]))?;
    let refused = from_haiku(&mut Checkpoint::open(&file)?, None);
    assert!(
        refused.is_err_and(|e| e.to_string().contains("other.pkl") && e.to_string().contains("initial_conv"))
    );
    Ok(())
}
