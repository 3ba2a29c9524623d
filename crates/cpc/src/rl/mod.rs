//! CPC as an auxiliary loss of an actor-critic (the paper's section 3.4), on any environment that is seen through images.
//!
//! An encoder turns every frame into a vector z_t, an LSTM reads them and gives c_t, from which a policy and a value are
//! made: batched advantage actor-critic (A2C). The auxiliary loss predicts z_{t+k} from c_t by linear maps and adds
//! nothing else: no replay, no further network.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | settings and their ranges |
//! | [`environments`] | a batch of environments in step with each other, with rewards clipped and episodes counted |
//! | [`places`] | where environments are: what a checkpoint keeps of them |
//! | [`gym`] | any environment of Gymnasium, in a Python process |
//! | [`model`] | convolutions, LSTM, policy, value, predictors |
//! | [`actor`] | the policy acting: one unroll after another |
//! | [`loss`] | returns and the loss of A2C: pure functions |
//! | [`method`] | one update, as the training loop sees it |
//! | [`curve`] | returns over frames |
//! | [`recipe`], [`run`] | presets and whole runs |
//!
//! Training is the one loop of `contrastive_core::train`: an update is its step, the batch is nothing but the number of
//! steps of the environments, and the environments are state of the method. An episode is a function of its seed, its
//! number and its actions, so a checkpoint holds for every environment the number of its episode and the actions since
//! it began; resuming plays them again, and then goes on with the same bits.
//!
//! On several ranks each plays its part of the environments, and the mean of the ranks' gradients is the gradient of all. A
//! checkpoint has the environments of all ranks. The auxiliary loss takes negatives from its own rank's unroll, as on
//! speech, and looks no further ahead than every rank can.
//!
//! # Departures from the paper
//! - The paper gives neither the weight of the auxiliary loss nor where negatives come from. Here the weight is a
//!   setting ([`config::CpcConfig`]), and every other encoding of the unroll, of any environment and time, is a negative.
//! - Pairs that lie in different episodes are left out. Where no pair of an unroll is `k` steps apart within an episode,
//!   step `k` is left out of that update.
//! - Numbers that the paper takes from a random search (learning rate, entropy, epsilon) are IMPALA's.
//! - An episode that ends because its time is over ends like any other: nothing is bootstrapped beyond it. The last
//!   reward and action that the LSTM sees are zero at an episode's first step, as its state is.
//! - Convolutions have no padding.

pub mod actor;
pub mod config;
pub mod curve;
pub mod environments;
pub mod gym;
pub mod loss;
pub mod method;
pub mod model;
pub mod places;
pub mod recipe;
pub mod run;

pub use actor::{Actor, Rollout};
pub use config::{CpcConfig, EnvironmentConfig, Reduction, RlConfig, RlRun, Torso};
pub use contrastive_scenes::{self as scenes, Environment, Shape, Step};
pub use curve::{Curve, CurvePoint, Episode};
pub use environments::{Transition, VecEnvironment};
pub use gym::GymEnvironment;
pub use method::ActorCritic;
pub use model::Agent;
pub use places::Places;
