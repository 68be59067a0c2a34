//! What the tests of Muster need beyond the crates themselves: the fleet simulator, the bodies of the
//! fuzz targets, and the finding of real peers. Nothing of it is in the product.

pub mod fleet;
pub mod fuzz;
pub mod netns;
pub mod peers;
